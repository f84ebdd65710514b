import assert from "node:assert/strict";
import { test } from "node:test";
import { colourNodes, timeMarks } from "../../src/genretree/service/web/lanes.js";
import { overall } from "../../src/genretree/service/web/runs.js";
import { asCsv, asJson, isOnBranch } from "../../src/genretree/service/web/tracks.js";
import { nest } from "../../src/genretree/service/web/tree.js";

const level = (label, probability) => ({ label, probability, top: [{ label, probability }] });

function track(name, answer, tags = {}) {
  return { name, tags, artist: tags.artist ?? "", seconds: 61.5, run: { model: { name: "m" }, answer } };
}

const rock = {
  status: "done",
  prediction: { path: ["Rock", "Soft, rock"], levels: [level("Rock", 0.9), level("Soft, rock", 0.6)] },
  tree: [],
};

test("a table for spreadsheets quotes cells and defuses formulas", () => {
  const lines = asCsv([
    track("a.mp3", rock, { title: '=1+1 "x"', artist: "@me" }),
    track("b.mp3", { status: "failed", error: { kind: "silence" } }),
  ]).split("\r\n");
  const levels = "level_1,level_1_probability,level_2,level_2_probability";
  assert.equal(lines[0], `file,title,artist,album,seconds,path,${levels},model,error`);
  assert.equal(lines[1], `a.mp3,"'=1+1 ""x""",'@me,,61.5,"Rock > Soft, rock",Rock,0.9,"Soft, rock",0.6,m,`);
  assert.equal(lines[2], "b.mp3,,,,61.5,,,,,,m,silence");
  assert.equal(lines.length, 4); // the last line ends, too
});

test("JSON has the path that the model is sure of, and errors", () => {
  const unsure = {
    ...rock,
    prediction: { ...rock.prediction, levels: [level("Rock", 0.9), level("Soft, rock", 0.4)] },
  };
  const failed = { status: "failed", error: { kind: "silence", detail: "no sound" } };
  const rows = JSON.parse(asJson([track("a.mp3", unsure), track("b.mp3", failed)]));
  assert.deepEqual(rows[0].sure_path, ["Rock"]);
  assert.deepEqual(rows[1].error, { kind: "silence", message: "no sound" });
});

test("only tracks whose path goes through a node are on its branch", () => {
  const named = (...path) =>
    track("a", { status: "done", prediction: { path, levels: path.map((name) => level(name, 1)) } });
  assert.ok(isOnBranch(named("Classic", "Opera"), ["Classic"]));
  assert.ok(isOnBranch(named("Classic", "Opera"), ["Classic", "Opera"]));
  assert.ok(!isOnBranch(named("Non_classic", "Rock"), ["Classic"])); // the text "Non-classical" contains "Classical"
  assert.ok(!isOnBranch(named("Classic"), ["Classic", "Opera"]));
  assert.ok(!isOnBranch(track("a", { status: "working", state: {} }), ["Classic"]));
});

test("nodes are nested whatever their order", () => {
  const root = nest([
    { path: ["a", "b"], probability: 0.4 },
    { path: ["a"], probability: 0.7 },
    { path: ["c"], probability: 0.3 },
  ]);
  assert.deepEqual(
    root.children.map(({ name, children }) => [name, children.map((child) => child.name)]),
    [
      ["a", ["b"]],
      ["c", []],
    ],
  );
});

test("a time axis has at most thirteen marks from 0", () => {
  for (const end of [0.5, 9.5, 61, 240, 3600, 86400 / 4]) {
    const marks = timeMarks(end);
    assert.deepEqual(marks[0], [0, "0:00"]);
    assert.ok(marks.length <= 13 && marks.every(([place]) => place >= 0 && place <= 100));
  }
  assert.deepEqual(timeMarks(20).slice(0, 2), [
    [0, "0:00"],
    [10, "0:02"],
  ]);
});

test("nodes of the predicted path share a colour, and each other node has its own", () => {
  const colours = colourNodes({
    path: ["Rock", "Soft"],
    timeline: [{ path: ["Rock", "Soft"] }, { path: ["Rock", "Hard"] }, { path: ["Pop", "Dance"] }],
  });
  const of = (...path) => colours.get(JSON.stringify(path));
  assert.equal(of("Rock"), "on");
  assert.equal(of("Rock", "Soft"), "on");
  assert.notEqual(of("Rock", "Hard"), "on");
  assert.notEqual(of("Rock", "Hard"), of("Pop"));
  assert.equal(of("Pop"), of("Pop", "Dance")); // the first child has its parent's
});

test("the upload is the first 15 % of a job's progress", () => {
  assert.equal(overall({ stage: "upload", progress: 0.5 }), 0.075);
  assert.equal(overall({ stage: "busy", wait: 3 }), 0);
  assert.equal(overall({ stage: "waiting" }), overall({ stage: "upload", progress: 1 }));
  assert.equal(overall({ stage: "network", progress: 1 }), 1);
});
