import assert from "node:assert/strict";
import { test } from "node:test";
import * as words from "../../src/genretree/service/web/words.js";

const level = (label, probability, ...others) => ({
  label,
  probability,
  top: [[label, probability], ...others].map(([name, chance]) => ({ label: name, probability: chance })),
});

test("names of nodes are written as people write them", () => {
  const names = {
    Non_classic: "Non-classical",
    Classic: "Classical",
    Soul_or_RnB: "Soul or R&B",
    "hip hop": "Hip hop",
  };
  for (const [name, written] of Object.entries(names)) assert.equal(words.nodeName(name), written);
  assert.equal(words.nodeName(undefined), "no music");
  assert.equal(words.nodeName(""), "");
  assert.equal(words.nodeName("nonsense"), "Nonsense");
});

test("a path leaves out a name that repeats the one above it", () => {
  assert.equal(words.pathName(["Non_classic", "Rock", "Soft_rock"]), "Non-classical › Rock › Soft rock");
  assert.equal(words.pathName(["Classic", "classical"]), "Classical");
  assert.equal(words.pathName(["Rock", "Pop", "Rock"]), "Rock › Pop › Rock");
  assert.equal(words.pathName([]), "");
});

test("levels have their own names, or names by their depth", () => {
  assert.equal(words.levelName("fst_level_label", 0, 3), "Branch");
  assert.equal(words.levelName("level_2", 1, 2), "Subgenre");
  assert.equal(words.levelName("level_5", 4, 5), "Level 5");
  assert.equal(words.levelName("mood_of_day", 0, 3), "Mood of day");
});

test("a path ends where the model is less sure than asked", () => {
  const prediction = { path: ["a", "b", "c"], levels: [level("a", 0.9), level("b", 0.5), level("c", 0.2)] };
  assert.deepEqual(words.surePath(prediction, 0), ["a", "b", "c"]);
  assert.deepEqual(words.surePath(prediction, 0.5), ["a", "b"]);
  assert.deepEqual(words.surePath(prediction, 0.95), []);
});

test("alternatives are the two next nodes above 5 %", () => {
  const item = level("a", 0.5, ["b", 0.3], ["c", 0.1], ["d", 0.06], ["e", 0.04]);
  assert.deepEqual(
    words.alternatives(item, "a").map(({ label }) => label),
    ["b", "c"],
  );
  assert.deepEqual(words.alternatives(level("a", 0.97, ["b", 0.03]), "a"), []);
});

test("percentages never claim certainty", () => {
  assert.deepEqual([0, 0.001, 0.005, 0.5, 0.994, 0.999, 1].map(words.percent), [
    "0\u202f%",
    "< 1\u202f%",
    "1\u202f%",
    "50\u202f%",
    "99\u202f%",
    "> 99\u202f%",
    "100\u202f%",
  ]);
});

test("times, sizes and durations", () => {
  assert.equal(words.clock(0), "0:00");
  assert.equal(words.clock(59.99999), "1:00");
  assert.equal(words.clock(605), "10:05");
  assert.equal(words.clock(65.27, true), "1:05.2");
  assert.equal(words.megabytes(2 ** 20 * 2.5), "2.5 MB");
  assert.equal(words.megabytes(1), "0.1 MB");
  assert.equal(words.megabytes(2 ** 20 * 120.4), "120 MB");
  assert.equal(words.duration(1), "1 second");
  assert.equal(words.duration(90), "90 seconds");
  assert.equal(words.duration(150), "2.5 minutes");
  assert.equal(words.duration(7200), "2 hours");
});

test("confidence in words", () => {
  assert.equal(words.describeConfidence(level("a", 0.97, ["b", 0.03])), "almost certain");
  assert.equal(words.describeConfidence(level("a", 0.85, ["b", 0.1])), "very likely");
  assert.equal(words.describeConfidence(level("a", 0.4, ["b", 0.35])), "barely ahead of B (35\u202f%)");
  assert.equal(words.describeConfidence(level("a", 0.5, ["b", 0.3])), "uncertain; next is B (30\u202f%)");
  assert.equal(
    words.describeConfidence({ label: "a", probability: 0.5, top: [{ label: "a", probability: 0.5 }] }),
    "uncertain",
  );
  assert.match(words.describeConfidence(level("a", 0.3, ["b", 0.4])), /in another branch B has 40/);
});

test("confidence in the whole path", () => {
  const path = (...chances) => ({ levels: chances.map((chance, at) => level(`n${at}`, chance)) });
  assert.match(words.summariseConfidence(path(0.9, 0.85), 0.5), /at every level/);
  assert.match(words.summariseConfidence(path(0.9, 0.85), 0.88), /down to N0;/);
  assert.match(words.summariseConfidence(path(0.7, 0.3), 0.5), /moderately/);
  assert.match(words.summariseConfidence(path(0.7, 0.3), 0.75), /uncertain/);
  assert.match(words.summariseConfidence({ not_music: true, levels: [] }, 0.5), /No genre/);
});

test("the slices of a track", () => {
  const slices = (...names) => names.map((name) => ({ path: ["x", name] }));
  assert.equal(words.summariseSlices(slices("a", "a", "b")), "By slice: A in 2 of 3, B in 1.");
  assert.equal(words.summariseSlices(slices("a", "a")), "All 2 slices agree.");
  assert.equal(words.summariseSlices(slices("a")), "");
});

test("odds and signs", () => {
  assert.equal(words.odds(0), "even");
  assert.equal(words.odds(Math.log(2.5)), "2.5 to 1 for it");
  assert.equal(words.odds(-Math.log(40)), "40 to 1 against it");
  assert.equal(words.odds(50), "more than 1000 to 1 for it");
  assert.equal(words.signed(-0.5), "−0.50");
  assert.equal(words.signed(0), "+0.00");
});

test("the question of a reason", () => {
  const ask = (...others) => words.question({ node: ["Rock"], against: others.map((name) => [name]) });
  assert.equal(ask("Pop"), "Why Rock and not Pop?");
  assert.equal(ask("Pop", "Jazz", "Soul"), "Why Rock and not Pop, Jazz or Soul?");
  assert.equal(ask("Pop", "Jazz", "Soul", "Folk"), "Why Rock and not Pop, Jazz or 2 others?");
});

test("stages and errors", () => {
  assert.equal(words.stageName({ stage: "busy", wait: 4.6 }), "Server busy; retrying in 5 s");
  assert.equal(words.stageName({ stage: "waiting", queue: 1 }), "Waiting: 1 file ahead");
  assert.equal(words.stageName({ stage: "spectra" }), "Computing spectrograms");
  assert.equal(words.stageName({ stage: "new in a later version" }), "Working");
  assert.equal(words.describeError({ kind: "silence" }).permanent, true);
  assert.equal(words.describeError({ kind: "busy" }).permanent, false);
  const unknown = words.describeError(new Error("boom"));
  assert.equal(unknown.title, "Something went wrong.");
  assert.equal(unknown.detail, "boom");
});
