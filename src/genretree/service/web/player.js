// The audio player; cursors in the page follow its position.

import { icon } from "./dom.js";
import { clock } from "./words.js";

const STEP = 2; // seconds that an arrow key moves
const LEAP = 15; // seconds of page up and page down

export function makePlayer(box) {
  const audio = box.querySelector("audio");
  const button = box.querySelector("button");
  const bar = box.querySelector("input");
  const shown = box.querySelector("output");
  const watchers = new Set();
  let end = 0;
  let stop = null; // where a passage ends
  let again = null; // where it begins, if it is repeated
  let next = null; // the source to load at the next pause

  function show() {
    const at = audio.currentTime;
    if (stop !== null && at >= stop) {
      if (again !== null && !audio.paused) {
        audio.currentTime = again;
        return;
      }
      [stop, again] = [null, null];
      audio.pause();
    }
    bar.value = at;
    bar.style.setProperty("--at", `${100 * Math.min(at / (end || 1), 1)}%`);
    bar.setAttribute("aria-valuetext", `${clock(at)} of ${clock(end)}`);
    shown.value = `${clock(at, true)} / ${clock(end)}`;
    for (const watcher of watchers) watcher(Math.min(at / (end || 1), 1));
  }

  function run() {
    show();
    if (!audio.paused) requestAnimationFrame(run);
  }

  function setEnd(seconds) {
    end = seconds;
    bar.max = seconds;
    show();
  }

  // The browser can't play this format; the explanation brings an Ogg version.
  function fail() {
    button.disabled = true;
    button.title = "This browser can’t play the file. It becomes playable when the explanation is done.";
  }

  function take(source) {
    button.disabled = false;
    button.title = "";
    const at = audio.currentTime;
    audio.src = source;
    if (at) audio.currentTime = at;
  }

  function changed() {
    const playing = !audio.paused;
    button.replaceChildren(icon(playing ? "pause" : "play"));
    button.setAttribute("aria-label", playing ? "Pause" : "Play");
    if (!playing && next) {
      take(next);
      next = null;
    }
    if (playing) run();
    else show();
  }

  function seek(to) {
    [stop, again] = [null, null];
    audio.currentTime = Math.max(0, Math.min(to, end));
    show();
  }

  function toggle() {
    if (audio.paused) play();
    else audio.pause();
  }

  function play() {
    audio.play().catch((error) => {
      if (error.name === "NotSupportedError") fail();
    });
  }

  // Seek by a key; returns whether the key was handled.
  function key(event) {
    const moves = {
      ArrowLeft: -STEP,
      ArrowDown: -STEP,
      ArrowRight: STEP,
      ArrowUp: STEP,
      PageDown: -LEAP,
      PageUp: LEAP,
    };
    if (event.ctrlKey || event.metaKey || event.altKey || box.hidden) return false;
    if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(end);
    else if (event.key in moves) seek(audio.currentTime + moves[event.key]);
    else return false;
    event.preventDefault();
    return true;
  }

  for (const name of ["play", "pause"]) audio.addEventListener(name, changed);
  for (const name of ["seeked", "timeupdate", "loadedmetadata"]) audio.addEventListener(name, show);
  audio.addEventListener("error", () => {
    if (audio.getAttribute("src")) fail();
  });
  button.addEventListener("click", toggle);
  bar.addEventListener("input", () => seek(Number(bar.value)));
  bar.addEventListener("keydown", key);
  document.addEventListener("keydown", (event) => {
    const free = !event.target.closest(
      "input, select, textarea, button, a, summary, dialog, [role=tree], [role=tablist]",
    );
    if (!free || box.hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " ") {
      event.preventDefault();
      toggle();
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") key(event);
  });
  changed();

  return {
    // Load a source of `seconds`.
    load(source, seconds) {
      audio.pause();
      [stop, again, next] = [null, null, null];
      audio.currentTime = 0;
      take(source);
      box.hidden = false;
      setEnd(seconds);
    },
    // Load the same track in another format: now, or at the next pause if it is playing.
    replace(source, seconds) {
      setEnd(seconds);
      if (audio.paused || audio.error) take(source);
      else next = source;
    },
    close() {
      audio.pause();
      audio.removeAttribute("src");
      box.hidden = true;
      watchers.clear();
    },
    playPassage(from, to, repeat = false) {
      seek(from);
      [stop, again] = [to, repeat ? from : null];
      play();
    },
    pause() {
      audio.pause();
    },
    watch(watcher) {
      watchers.add(watcher);
      show();
      return () => watchers.delete(watcher);
    },
    seek,
    setEnd,
    get end() {
      return end;
    },
  };
}
