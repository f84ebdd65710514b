// Recording with the microphone, which stays off until the button is pressed.

import { call } from "./api.js";
import { announce } from "./dom.js";
import { sureness } from "./sureness.js";
import { clock, nodeName, pathName, percent, surePath } from "./words.js";

const MIME_TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];
// Speech processing distorts music.
const UNPROCESSED = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

const FIRST_SECONDS = 5; // of a recording before its path is shown
const PAUSE_SECONDS = 4; // between two predictions while recording

// Set up the button and the panel; `model()` is the model for the path shown while recording, and `onFile` gets the recording. The button stays hidden where recording is not supported.
export function setUpRecording(button, panel, { maxSeconds, model }, onFile) {
  if (!navigator.mediaDevices?.getUserMedia || !globalThis.MediaRecorder) return;
  const time = panel.querySelector("output");
  const level = panel.querySelector(".level");
  const words = panel.querySelector(".words");
  const live = panel.querySelector(".live");
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
    follow(recorder, parts, started);
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
    live.textContent = "";
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

  // Show the path of what has been recorded so far, again and again.
  async function follow(own, parts, started) {
    const seconds = () => (performance.now() - started) / 1000;
    const wait = (time) => new Promise((resolve) => setTimeout(resolve, 1000 * time));
    await wait(FIRST_SECONDS);
    for (; recorder === own; await wait(PAUSE_SECONDS)) {
      const form = new FormData();
      form.append("file", new Blob(parts, { type: own.mimeType }), "recording");
      const query = new URLSearchParams({ model: model().name, salvage: "true" });
      const until = clock(seconds());
      const response = await call(`v1/predict?${query}`, { method: "POST", body: form }).catch(() => null);
      const prediction = response && (await response.json()).results[0];
      if (recorder !== own || !prediction) continue; // silent or busy: the next attempt may do better
      const path = prediction.not_music ? [] : surePath(prediction, sureness());
      const level = prediction.levels[path.length ? path.length - 1 : 0];
      live.textContent = path.length
        ? `So far (${until}): ${pathName(path)}, ${percent(level.probability)}`
        : `So far (${until}): not sure${level ? `; perhaps ${nodeName(level.label)}, ${percent(level.probability)}` : ""}`;
    }
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
