// The page: takes files or the microphone, shows their text as it comes, and plays them.

import { record } from "./live.js";
import { pageLanguage, sentence, speak, text } from "./texts.js";
import { differences, FORMATS, shortClock } from "./transcript.js";

const AT_A_TIME = 4; // files that are sent at the same time
const byId = (id) => document.getElementById(id);
const waiting = []; // functions that start a request
let running = 0;

/** Return a new element; `on…` attributes are listeners, true and false say whether an attribute is there. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Return an element whose text follows the page's language. */
const said = (tag, key, attributes = {}) => {
  const node = el(tag, { ...attributes, "data-text": key });
  node.textContent = text(key);
  return node;
};

const chosen = () => ({
  model: byId("model").value,
  language: byId("language").value,
  task: byId("task").value,
  key: byId("key").value,
});
const authorization = () => (byId("key").value ? { Authorization: `Bearer ${byId("key").value}` } : {});

function complain(error) {
  byId("message").hidden = !error;
  byId("message").textContent = error ? sentence(error) : "";
}

/** Throw what an answer that is no success says: {status, code, param, message}. */
async function checked(answer) {
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  if (answer.status === 401) byId("key-field").hidden = false;
  throw { status: answer.status, ...found.error };
}

/** Yield the events of a transcription. */
async function* transcribed(audio, name, { model, language, task }, signal) {
  const form = new FormData();
  form.append("file", audio, name);
  const fields = { model, response_format: "verbose_json", stream: "true", ...(language && { language }) };
  for (const [field, value] of Object.entries(fields)) form.append(field, value);
  const options = { method: "POST", body: form, headers: authorization(), signal };
  const answer = await checked(await fetch(`v1/audio/${task}`, options));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let left = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (left + value).split("\n\n");
    left = events.pop();
    for (const event of events) yield JSON.parse(event.replace(/^data: /, ""));
  }
}

/** One model's text of one recording: a list of lines, and what can be done with it. */
class Result {
  constructor(item, options) {
    Object.assign(this, { item, options, segments: [], lines: [] });
    this.state = said("span", "waiting", { class: "note", role: "status" });
    this.progress = el("progress", { max: 1, value: 0, "aria-hidden": "true" });
    this.list = el("ol", { "aria-label": text("lines"), "data-label": "lines", onkeydown: (event) => this.move(event) });
    this.tools = el("div", { class: "tools", hidden: true });
    this.stop = said("button", "cancel", { type: "button", onclick: () => this.abort?.abort() });
    this.retry = said("button", "again", { type: "button", hidden: true, onclick: () => this.start() });
    const head = el("div", { class: "state" }, el("h3", {}, options.model), this.state, this.stop, this.retry);
    head.classList.add("tools");
    this.node = el("section", { class: "result", "aria-label": options.model }, head, this.progress, this.list, this.tools);
    this.addTools();
  }

  /** Ask the server, when it is this one's turn. */
  start() {
    this.clear();
    this.abort = new AbortController();
    const run = async () => {
      running++;
      await this.ask();
      running--;
      waiting.shift()?.();
    };
    if (running < AT_A_TIME) run();
    else waiting.push(run);
  }

  clear() {
    this.segments = [];
    this.lines = [];
    this.list.replaceChildren();
    this.node.querySelector(".error")?.remove();
    [this.tools.hidden, this.retry.hidden, this.stop.hidden, this.progress.hidden] = [true, true, false, false];
    this.progress.removeAttribute("value");
    this.say("waiting");
  }

  say(key) {
    this.state.dataset.text = key;
    this.state.textContent = text(key);
  }

  async ask() {
    const { audio, name } = this.item;
    try {
      this.abort.signal.throwIfAborted();
      this.say("working");
      for await (const event of transcribed(audio, name, this.options, this.abort.signal)) {
        if (event.type === "transcript.text.segment") this.add(event);
        else if (event.type === "error") throw event.error;
        else if (event.type === "transcript.text.done") this.finish(event);
      }
      if (!this.done) throw new TypeError("the answer is not complete");
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    [this.stop.hidden, this.retry.hidden, this.progress.hidden] = [true, false, true];
    if (this.abort?.signal.aborted) return this.say("cancelled");
    this.say("");
    this.state.textContent = "";
    const problem = error instanceof TypeError ? { code: "network" } : error;
    this.list.before(el("p", { class: "error", role: "alert" }, sentence(problem)));
    return undefined;
  }

  add({ start, end, text: words }) {
    this.segments.push({ start, end, text: words });
    this.lines.push(this.line(start, words));
    this.list.append(el("li", {}, this.lines.at(-1)));
    const { duration } = this.item.player;
    if (Number.isFinite(duration)) this.progress.value = Math.min(1, end / duration);
  }

  line(start, words) {
    const time = el("time", {}, shortClock(start));
    return el("button", { type: "button", class: "line", onclick: () => this.item.play(start) }, time, el("span", {}, words));
  }

  finish({ language, duration }) {
    this.done = true;
    this.facts = { model: this.options.model, language, duration };
    [this.stop.hidden, this.progress.hidden] = [true, true];
    this.tools.hidden = !this.segments.length;
    this.say(this.segments.length ? "done" : "silent");
    this.item.compare();
  }

  addTools() {
    const copy = said("button", "copy", { type: "button" });
    copy.onclick = async () => {
      await navigator.clipboard.writeText(FORMATS.txt(this.segments));
      copy.textContent = text("copied");
      setTimeout(() => (copy.textContent = text("copy")), 1500);
    };
    this.tools.append(copy, said("span", "download", { class: "note" }));
    for (const [suffix, render] of Object.entries(FORMATS)) {
      const save = () => download(render(this.segments, this.facts), `${this.item.stem}.${this.options.model}.${suffix}`);
      this.tools.append(el("button", { type: "button", onclick: save }, suffix));
    }
  }

  /** Up and down go from line to line. */
  move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = this.lines[this.lines.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  /** Mark the line that is being said. */
  follow(second) {
    this.segments.forEach(({ start, end }, n) => this.lines[n]?.classList.toggle("now", second >= start && second < end));
  }

  /** Mark words: [{segment, from, to}]. */
  mark(found) {
    this.segments.forEach(({ text: words }, segment) => {
      const pieces = [];
      let reached = 0;
      for (const { from, to } of found.filter((word) => word.segment === segment)) {
        pieces.push(words.slice(reached, from), el("mark", {}, words.slice(from, to)));
        reached = to;
      }
      this.lines[segment].lastChild.replaceChildren(...pieces, words.slice(reached));
    });
  }
}

/** One recording: its player, and the text of one model or two. */
class Item {
  constructor(name, audio, models) {
    Object.assign(this, { name, audio, stem: name.replace(/\.[^.]*$/, "") });
    this.player = el("audio", { controls: true, preload: "metadata", hidden: true, ontimeupdate: () => this.follow() });
    if (audio) this.hear(audio);
    this.results = models.map((model) => new Result(this, { ...chosen(), model }));
    const columns = el("div", { class: models.length > 1 ? "results two" : "results" });
    columns.append(...this.results.map(({ node }) => node));
    this.verdict = el("p", { class: "note", role: "status" });
    const remove = said("button", "remove", { type: "button", onclick: () => this.remove() });
    const head = el("div", { class: "head tools" }, el("h2", {}, name), remove);
    this.node = el("article", { "aria-label": name }, head, this.player, this.verdict, columns);
    byId("items").prepend(this.node);
  }

  hear(audio) {
    this.audio = audio;
    this.player.src = URL.createObjectURL(audio);
    this.player.hidden = false;
  }

  play(second) {
    this.player.currentTime = second;
    this.player.play().catch(() => {}); // what the browser can't play has its text all the same
  }

  follow() {
    for (const result of this.results) result.follow(this.player.currentTime);
  }

  /** Mark where the two texts differ, when both are there. */
  compare() {
    if (this.results.length < 2 || !this.results.every(({ done }) => done)) return;
    const found = differences(...this.results.map(({ segments }) => segments));
    this.results.forEach((result, n) => result.mark(found[n]));
    const count = Math.max(...found.map(({ length }) => length));
    this.verdict.textContent = count ? text("differences", count) : text("same");
  }

  remove() {
    for (const result of this.results) result.abort?.abort();
    this.player.pause();
    URL.revokeObjectURL(this.player.src);
    this.node.remove();
  }
}

const models = () => [byId("model").value, byId("other").value].filter(Boolean);

function transcribe(files) {
  complain(null);
  for (const file of files) for (const result of new Item(file.name, file, models()).results) result.start();
}

function download(content, name) {
  const link = el("a", { href: URL.createObjectURL(new Blob([content], { type: "text/plain" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

let stopRecording = null;

/** Show turns as they are heard; when all of them are there, they are the text. */
function showLive(item) {
  const [result] = item.results;
  const turns = new Map();
  result.clear();
  [result.stop.hidden, result.progress.hidden] = [true, true];
  result.say("listening");
  return (turn) => {
    turns.set(turn.item, turn);
    const shown = [...turns.values()].filter((one) => one.text);
    result.segments = shown.map(({ start, end, text: words }) => ({ start, end: end ?? start, text: words }));
    result.lines = shown.map((one) => result.line(one.start, one.text));
    shown.forEach((one, n) => result.lines[n].classList.toggle("partial", !one.final));
    result.list.replaceChildren(...result.lines.map((line) => el("li", {}, line)));
    result.list.scrollTop = result.list.scrollHeight;
  };
}

async function toggleRecording() {
  const button = byId("record");
  complain(null);
  button.disabled = true;
  try {
    if (stopRecording) await stopRecording();
    else if (!navigator.mediaDevices) complain({ code: "insecure" });
    else await startRecording();
  } catch (error) {
    complain({ code: error.name === "NotFoundError" ? "none" : "microphone" });
  }
  button.disabled = false;
  button.setAttribute("aria-pressed", String(Boolean(stopRecording)));
  byId("record-text").dataset.text = stopRecording ? "stop" : "record";
  byId("record-text").textContent = text(stopRecording ? "stop" : "record");
}

async function startRecording() {
  let show = null;
  const end = await record(chosen(), (turn) => show?.(turn));
  const time = new Date().toLocaleTimeString(pageLanguage());
  const item = new Item(`${text("recording")} ${time}`, null, models());
  show = showLive(item);
  stopRecording = async () => {
    stopRecording = null;
    const { blob, live } = await end();
    item.hear(blob);
    const [first, ...others] = item.results;
    for (const result of others) result.start();
    if (live) first.finish({ language: first.options.language || null, duration: item.player.duration });
    else first.start();
  };
}

async function listModels() {
  const answer = await checked(await fetch("v1/models", { headers: authorization() }));
  const { data, languages } = await answer.json();
  const options = data.map(({ id }) => new Option(id, id));
  byId("model").replaceChildren(...options);
  byId("other").replaceChildren(new Option(text("nothing"), ""), ...options.map((option) => option.cloneNode(true)));
  byId("other").options[0].dataset.text = "nothing";
  listLanguages(languages);
}

/** List languages by their names in the page's language. */
function listLanguages(codes) {
  const select = byId("language");
  const names = new Intl.DisplayNames([pageLanguage()], { type: "language" });
  const named = codes.map((code) => [names.of(code === "jw" ? "jv" : code), code]);
  named.sort(([first], [second]) => first.localeCompare(second, pageLanguage()));
  const detect = new Option(text("detect"), "");
  detect.dataset.text = "detect";
  const before = select.value;
  select.replaceChildren(detect, ...named.map(([name, code]) => new Option(name, code)));
  select.value = before;
}

function listen() {
  byId("choose").onclick = () => byId("files").click();
  byId("files").onchange = ({ target }) => {
    transcribe([...target.files]);
    target.value = "";
  };
  byId("record").onclick = toggleRecording;
  byId("key").onchange = () => start();
  byId("options").onsubmit = (event) => event.preventDefault();
  byId("page-language").onchange = ({ target }) => {
    speak(target.value);
    listLanguages([...byId("language").options].map(({ value }) => value).filter(Boolean));
  };
  for (const kind of ["dragover", "dragleave", "drop"])
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      byId("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") transcribe([...event.dataTransfer.files]);
    });
}

async function start() {
  try {
    await listModels();
    complain(null);
  } catch (error) {
    complain(error instanceof TypeError ? { code: "network" } : error);
  }
  document.body.dataset.ready = "";
}

byId("page-language").value = pageLanguage();
speak(pageLanguage());
listen();
start();
