// The service's HTTP interface. Nothing here knows of any other host.

const KEPT = "genretree.token";
let asking = null;
let askForToken = () => Promise.reject(new Problem({ kind: "unauthorized" }, 401));

export class Problem extends Error {
  constructor(problem, status = 0, wait = null) {
    super(problem.detail || problem.title || "");
    this.kind = problem.kind || "error";
    this.title = problem.title || "";
    this.detail = problem.detail || "";
    this.status = status;
    this.wait = wait; // seconds after which the server wants to be asked again
  }
}

// Set what asks the user for a token: a function (refused) -> promise of the token.
export function setTokenQuestion(question) {
  askForToken = question;
}

// Links in answers begin with "/"; taken from the page's own address they hold behind a proxy's prefix, too.
function address(path) {
  return new URL(path.replace(/^\//, ""), document.baseURI);
}

function headers() {
  const token = sessionStorage.getItem(KEPT);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function asProblem(text, status, wait) {
  try {
    return new Problem(JSON.parse(text), status, wait);
  } catch {
    return new Problem({ kind: status === 413 ? "too_large" : "error", title: `HTTP status ${status}` }, status, wait);
  }
}

// Do a request; where the server wants a token, ask for one and do it again.
async function withToken(request) {
  for (;;) {
    const used = sessionStorage.getItem(KEPT);
    try {
      return await request();
    } catch (error) {
      if (error.status !== 401) throw error;
      if (sessionStorage.getItem(KEPT) !== used) continue; // another request has asked meanwhile
      asking ??= askForToken(used !== null).finally(() => { asking = null; });
      sessionStorage.setItem(KEPT, await asking);
    }
  }
}

// Fetch; anything but success becomes a Problem.
export function call(path, options = {}) {
  return withToken(async () => {
    let answer;
    try {
      answer = await fetch(address(path), { ...options, headers: { ...options.headers, ...headers() } });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Problem({ kind: "offline" });
    }
    if (answer.ok) return answer;
    throw asProblem(await answer.text(), answer.status, Number(answer.headers.get("Retry-After")) || null);
  });
}

export async function json(path, options) {
  return (await call(path, options)).json();
}

// Fetch a picture or sound as an address of the page's own: an <img> could not send the token.
export async function asLocal(path, signal) {
  return URL.createObjectURL(await (await call(path, { signal })).blob());
}

// Send a file; by XMLHttpRequest, as fetch doesn't say how far it is. Progress is given as 0 to 1.
export function upload(path, file, onProgress, signal) {
  return withToken(() => new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => { if (event.lengthComputable) onProgress(event.loaded / event.total); };
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(asProblem(request.responseText, request.status, Number(request.getResponseHeader("Retry-After")) || null));
    };
    request.onerror = () => reject(new Problem({ kind: "offline" }));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    if (signal.aborted) return request.onabort();
    signal.addEventListener("abort", () => request.abort(), { once: true });
    const form = new FormData();
    form.append("file", file, file.name);
    request.send(form);
  }));
}

// Read server-sent events; by fetch, as EventSource can't send the token. Yields [name, data].
export async function* listen(path, signal) {
  const answer = await call(path, { signal, headers: { Accept: "text/event-stream" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held = (held + value).replaceAll("\r\n", "\n");
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => line.match(/^(\w+): ?(.*)$/)).filter(Boolean);
      const data = fields.filter((field) => field[1] === "data").map((field) => field[2]).join("\n");
      if (data) yield [fields.find((field) => field[1] === "event")?.[2] ?? "message", JSON.parse(data)];
    }
  }
}
