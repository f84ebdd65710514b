import assert from "node:assert/strict";
import { test } from "node:test";
import { audioFiles, isAudioName } from "../../src/genretree/service/web/drop.js";

test("files of a folder are audio by their suffix", () => {
  for (const name of ["a.mp3", "A.B.FLAC", "x.wv", "x.ape", "x.mp+"]) assert.ok(isAudioName(name), name);
  for (const name of ["cover.jpg", "mp3", "notes.mp3.txt", ""]) assert.ok(!isAudioName(name), name);
});

test("files of a folder are sorted as people number them", () => {
  const file = (webkitRelativePath) => ({ name: webkitRelativePath.split("/").at(-1), webkitRelativePath });
  const files = ["a/10.mp3", "a/2.mp3", "a/cover.png", "a/1/9.ogg"].map(file);
  assert.deepEqual(
    audioFiles(files).map((item) => item.webkitRelativePath),
    ["a/1/9.ogg", "a/2.mp3", "a/10.mp3"],
  );
});
