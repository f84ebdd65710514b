// Recording with the microphone, which stays off until the button is pressed.

import { announce } from "./dom.js";
import { clock } from "./words.js";

const MIME_TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];
// Speech processing distorts music.
const UNPROCESSED = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

// Set up the button and the panel; `onFile` gets the recording. The button stays hidden where recording is not supported.
export function setUpRecording(button, panel, maxSeconds, onFile) {
  if (!navigator.mediaDevices?.getUserMedia || !globalThis.MediaRecorder) return;
  const time = panel.querySelector("output");
  const level = panel.querySelector(".level");
  const words = panel.querySelector(".words");
  let recorder = null;
  button.hidden = false;

  async function begin() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: UNPROCESSED });
    } catch (error) {
      panel.hidden = false;
      panel.classList.add("refused");
      words.textContent =
        error.name === "NotAllowedError"
          ? "Microphone access is blocked; allow it in the address bar."
          : "No microphone was found.";
      return announce(words.textContent);
    }
    const type = MIME_TYPES.find((form) => MediaRecorder.isTypeSupported(form));
    recorder = new MediaRecorder(stream, type ? { mimeType: type, audioBitsPerSecond: 128000 } : {});
    const parts = [];
    const context = new AudioContext();
    const meter = context.createAnalyser();
    context.createMediaStreamSource(stream).connect(meter);
    const started = performance.now();
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
      if (!keep) return announce("Recording discarded.");
      const ending = mimeType.match(/webm|ogg|mp4/)?.[0].replace("mp4", "m4a") ?? "webm";
      const stamp = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
      onFile(new File(parts, `Recording ${stamp}.${ending}`, { type: mimeType.split(";")[0] }));
    };
    panel.classList.remove("refused");
    words.textContent = "Recording. Half a minute of music is enough.";
    panel.hidden = false;
    button.hidden = true;
    recorder.start(1000);
    panel.querySelector("button").focus();
    announce("Recording started.");

    const samples = new Float32Array(meter.fftSize);
    (function watch() {
      if (!recorder) return;
      const seconds = (performance.now() - started) / 1000;
      meter.getFloatTimeDomainData(samples);
      const rms = Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
      level.style.setProperty("--level", Math.min(1, Math.max(0, 1 + Math.log10(rms + 1e-6) / 3)));
      time.value = clock(seconds);
      if (maxSeconds && seconds >= maxSeconds) end(true);
      else requestAnimationFrame(watch);
    })();
  }

  function end(keep) {
    if (!recorder) {
      panel.hidden = true;
      return;
    }
    recorder.keep = keep;
    recorder.stop();
  }

  button.addEventListener("click", begin);
  panel.querySelector(".finish").addEventListener("click", () => end(true));
  panel.querySelector(".discard").addEventListener("click", () => end(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) end(false);
  });
}
