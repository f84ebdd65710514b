// One sound, one clock: what is shown of a track follows it.

import { clock } from "./words.js";
import { icon } from "./dom.js";

const STEP = 2; // seconds that an arrow key moves
const LEAP = 15; // seconds of page up and page down

export function makePlayer(box) {
  const sound = box.querySelector("audio");
  const button = box.querySelector("button");
  const bar = box.querySelector("input");
  const shown = box.querySelector("output");
  const watchers = new Set();
  let end = 0;
  let stop = null; // where a passage ends
  let next = null; // the sound to take as soon as this one pauses

  function show() {
    const at = sound.currentTime;
    if (stop !== null && at >= stop) { stop = null; sound.pause(); }
    bar.value = at;
    bar.style.setProperty("--at", `${100 * Math.min(at / (end || 1), 1)}%`);
    bar.setAttribute("aria-valuetext", `${clock(at)} of ${clock(end)}`);
    shown.value = `${clock(at, true)} / ${clock(end)}`;
    for (const watcher of watchers) watcher(Math.min(at / (end || 1), 1));
  }

  function run() {
    show();
    if (!sound.paused) requestAnimationFrame(run);
  }

  function setEnd(seconds) {
    end = seconds;
    bar.max = seconds;
    show();
  }

  // A form of sound that this browser can't play: the explanation brings another.
  function fail() {
    button.disabled = true;
    button.title = "This browser can’t play the file itself; the explanation brings a form that it can.";
  }

  function take(source) {
    button.disabled = false;
    button.title = "";
    const at = sound.currentTime;
    sound.src = source;
    if (at) sound.currentTime = at;
  }

  function changed() {
    const going = !sound.paused;
    button.replaceChildren(icon(going ? "pause" : "play"));
    button.setAttribute("aria-label", going ? "Pause" : "Play");
    if (!going && next) { take(next); next = null; }
    if (going) run(); else show();
  }

  function seek(to) {
    stop = null;
    sound.currentTime = Math.max(0, Math.min(to, end));
    show();
  }

  function toggle() {
    if (sound.paused) play();
    else sound.pause();
  }

  function play() {
    sound.play().catch((error) => { if (error.name === "NotSupportedError") fail(); });
  }

  // Move by a key; gives whether the key was one of ours.
  function key(event) {
    const moves = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -LEAP, PageUp: LEAP };
    if (event.ctrlKey || event.metaKey || event.altKey || box.hidden) return false;
    if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(end);
    else if (event.key in moves) seek(sound.currentTime + moves[event.key]);
    else return false;
    event.preventDefault();
    return true;
  }

  for (const name of ["play", "pause"]) sound.addEventListener(name, changed);
  for (const name of ["seeked", "timeupdate", "loadedmetadata"]) sound.addEventListener(name, show);
  sound.addEventListener("error", () => { if (sound.getAttribute("src")) fail(); });
  button.addEventListener("click", toggle);
  bar.addEventListener("input", () => seek(Number(bar.value)));
  bar.addEventListener("keydown", key);
  document.addEventListener("keydown", (event) => {
    const free = !event.target.closest("input, select, textarea, button, a, summary, dialog, [role=tree], [role=tablist]");
    if (!free || box.hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " ") { event.preventDefault(); toggle(); }
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") key(event);
  });
  changed();

  return {
    // Take a sound of `seconds`.
    load(source, seconds) {
      sound.pause();
      [stop, next] = [null, null];
      sound.currentTime = 0;
      take(source);
      box.hidden = false;
      setEnd(seconds);
    },
    // Take the same track in another form: at once, or if it is playing, when it pauses.
    replace(source, seconds) {
      setEnd(seconds);
      if (sound.paused || sound.error) take(source); else next = source;
    },
    close() {
      sound.pause();
      sound.removeAttribute("src");
      box.hidden = true;
      watchers.clear();
    },
    playPassage(from, to) {
      seek(from);
      stop = to;
      play();
    },
    watch(watcher) {
      watchers.add(watcher);
      show();
      return () => watchers.delete(watcher);
    },
    seek,
    setEnd,
    get end() { return end; },
  };
}
