// Drag and drop of files and folders, anywhere on the page.

// As in `genretree.sound.suffixes`.
const SUFFIXES =
  "16svx 3g2 3gp 3gpp 8svx aac ac3 adts aif aifc aiff amr ape asf au avi awb bwf caf dsf dts eac3 ec3 f4a f4v flac flv iff m4a m4b m4p m4r m4v mka mkv mov mp+ mp1 mp2 mp3 mp4 mpa mpc mpeg mpg mpga mpp nist oga ogg ogv ogx opus qt rf64 snd sph spx svx ts tta vob voc w64 wav wave weba webm wma wmv wv";
const known = new Set(SUFFIXES.split(" "));

export const isAudioName = (name) => name.includes(".") && known.has(name.toLowerCase().split(".").at(-1));

// The audio files of a chosen folder, in the order of their paths.
export function audioFiles(files) {
  const place = (file) => file.webkitRelativePath || file.name;
  return [...files]
    .filter((file) => isAudioName(file.name))
    .sort((one, other) => place(one).localeCompare(place(other), undefined, { numeric: true }));
}

// `veil` is shown while files are dragged over the page; `onFiles` gets the dropped files.
export function setUpDropping(veil, onFiles) {
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (holdsFiles(event)) veil.hidden = false;
  });
  addEventListener("dragover", (event) => {
    if (holdsFiles(event)) event.preventDefault();
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) veil.hidden = true;
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") veil.hidden = true;
  });
  addEventListener("drop", async (event) => {
    veil.hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault();
    // The browser allows access only during the event: get all entries first, then their files.
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const dropped = items.map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
    const files = await Promise.all(dropped.map(([entry, file]) => (entry?.isDirectory ? listFolder(entry) : [file])));
    onFiles(files.flat().filter(Boolean));
  });
}

// List the audio files in a folder, recursively, by suffix. Single files are uploaded whatever their suffix.
async function listFolder(folder) {
  const reader = folder.createReader();
  const entries = [];
  for (let some = [null]; some.length; ) {
    // a reader returns batches, and an empty one at the end
    some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    entries.push(...some);
  }
  entries.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  const files = await Promise.all(
    entries.map((entry) => {
      if (entry.isDirectory) return listFolder(entry);
      if (!isAudioName(entry.name)) return [];
      return new Promise((resolve, reject) => entry.file((file) => resolve([file]), reject));
    }),
  );
  return files.flat();
}
