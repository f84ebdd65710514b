// Recording with the microphone. Nothing is heard before the button is pressed.

import { tell } from "./dom.js";
import { clock } from "./words.js";

const FORMS = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];
// What makes speech clear bends music: all of it off.
const PLAIN = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

// Set up the button and the panel; `onFile` gets what was recorded. Without a microphone interface the button stays hidden.
export function setUpRecording(button, panel, longest, onFile) {
  if (!navigator.mediaDevices?.getUserMedia || !globalThis.MediaRecorder) return;
  const time = panel.querySelector("output");
  const level = panel.querySelector(".level");
  const words = panel.querySelector(".words");
  let recorder = null;
  button.hidden = false;

  async function begin() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: PLAIN });
    } catch (error) {
      panel.hidden = false;
      panel.classList.add("refused");
      words.textContent = error.name === "NotAllowedError" ? "The browser may not use the microphone; allow it in the address bar." : "No microphone was found.";
      return tell(words.textContent);
    }
    const type = FORMS.find((form) => MediaRecorder.isTypeSupported(form));
    recorder = new MediaRecorder(stream, type ? { mimeType: type, audioBitsPerSecond: 128000 } : {});
    const parts = [];
    const context = new AudioContext();
    const meter = context.createAnalyser();
    context.createMediaStreamSource(stream).connect(meter);
    const begun = performance.now();
    recorder.keep = true;
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      context.close();
      const { keep, mimeType } = recorder;
      recorder = null;
      panel.hidden = true;
      button.hidden = false;
      button.focus();
      if (!keep) return tell("Recording discarded.");
      const ending = mimeType.match(/webm|ogg|mp4/)?.[0].replace("mp4", "m4a") ?? "webm";
      const stamp = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
      onFile(new File(parts, `Recording ${stamp}.${ending}`, { type: mimeType.split(";")[0] }));
    };
    panel.classList.remove("refused");
    words.textContent = "Recording. Let the music play for half a minute.";
    panel.hidden = false;
    button.hidden = true;
    recorder.start(1000);
    panel.querySelector("button").focus();
    tell("Recording has begun.");

    const samples = new Float32Array(meter.fftSize);
    (function watch() {
      if (!recorder) return;
      const seconds = (performance.now() - begun) / 1000;
      meter.getFloatTimeDomainData(samples);
      const loud = Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
      level.style.setProperty("--level", Math.min(1, Math.max(0, 1 + Math.log10(loud + 1e-6) / 3)));
      time.value = clock(seconds);
      if (longest && seconds >= longest) end(true);
      else requestAnimationFrame(watch);
    })();
  }

  function end(keep) {
    if (!recorder) { panel.hidden = true; return; }
    recorder.keep = keep;
    recorder.stop();
  }

  button.addEventListener("click", begin);
  panel.querySelector(".finish").addEventListener("click", () => end(true));
  panel.querySelector(".discard").addEventListener("click", () => end(false));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !panel.hidden) end(false); });
}
