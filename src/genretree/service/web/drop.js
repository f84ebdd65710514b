// Dropping files, or folders of them, anywhere on the page.

const SOUND = /\.(wav|wave|rf64|w64|flac|og[ga]|opus|mp3|m4a|mp4|aac|wma|aiff?|caf|au|mka|webm)$/i;

// `veil` is shown while files are held over the page; `onFiles` gets those that are let go.
export function setUpDropping(veil, onFiles) {
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { if (holdsFiles(event)) veil.hidden = false; });
  addEventListener("dragover", (event) => { if (holdsFiles(event)) event.preventDefault(); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) veil.hidden = true; });
  addEventListener("keydown", (event) => { if (event.key === "Escape") veil.hidden = true; });
  addEventListener("drop", async (event) => {
    veil.hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault();
    // What was dropped can be asked for in this very moment only: first all entries, then what they hold.
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const dropped = items.map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
    const found = await Promise.all(dropped.map(([entry, file]) => (entry?.isDirectory ? listFolder(entry) : [file])));
    onFiles(found.flat().filter(Boolean));
  });
}

// The sound files in a folder and below. Of a single file that was dropped the service says whether it is sound.
async function listFolder(folder) {
  const reader = folder.createReader();
  const entries = [];
  for (let some = [null]; some.length;) { // a reader gives some at a time, and none at the end
    some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    entries.push(...some);
  }
  entries.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  const found = await Promise.all(entries.map((entry) => {
    if (entry.isDirectory) return listFolder(entry);
    if (!SOUND.test(entry.name)) return [];
    return new Promise((resolve, reject) => entry.file((file) => resolve([file]), reject));
  }));
  return found.flat();
}
