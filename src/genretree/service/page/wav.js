// A form that the server can't read, turned into one that it can, by the browser: recordings reach a server without ffmpeg.

const RATE = 44100;
const MOST = 40e6; // bytes of a compressed file whose samples fit well into a tab's memory

// Decode a file, mix it to mono and write it as 16-bit wav; null if the browser can't.
export async function asWav(file) {
  if (file.size > MOST) return null;
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    return null;
  }
  const channels = Array.from({ length: sound.numberOfChannels }, (_, number) => sound.getChannelData(number));
  const view = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const words = (at, text) => [...text].forEach((letter, place) => view.setUint8(at + place, letter.charCodeAt(0)));
  words(0, "RIFF");
  view.setUint32(4, 36 + 2 * sound.length, true);
  words(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // samples as they are
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  words(36, "data");
  view.setUint32(40, 2 * sound.length, true);
  for (let at = 0; at < sound.length; at++) {
    const mean = channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length;
    view.setInt16(44 + 2 * at, Math.max(-1, Math.min(mean, 1)) * 32767, true);
  }
  return new File([view], file.name, { type: "audio/wav" });
}
