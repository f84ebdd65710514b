// The dialog for the access token, shown when the service requires one.

import { Problem } from "./api.js";

export function makeTokenQuestion(dialog) {
  const form = dialog.querySelector("form");
  const field = dialog.querySelector("input");
  const words = dialog.querySelector(".refused");
  return (refused) =>
    new Promise((resolve, reject) => {
      const ended = new AbortController();
      words.hidden = !refused;
      field.value = "";
      form.addEventListener(
        "submit",
        (event) => {
          event.preventDefault();
          if (!field.value.trim()) return;
          ended.abort();
          dialog.close();
          resolve(field.value.trim());
        },
        { signal: ended.signal },
      );
      dialog.addEventListener(
        "close",
        () => {
          ended.abort();
          reject(new Problem({ kind: "unauthorized" }, 0));
        },
        { signal: ended.signal },
      );
      if (!dialog.open) dialog.showModal();
    });
}
