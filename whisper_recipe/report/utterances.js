// The list of utterances. Only what is looked at is in the document: more is added as the reader gets there.

const STEP = 20; // utterances that are added at a time
const view = { order: UTTERANCES.map((_, index) => index), from: 0, to: 0, current: -1 };
const corrections = new Map(); // id -> corrected text; null: the utterance is to be left out

/** Return the columns of an alignment as elements, and a sentence of it for screen readers. */
function alignedTexts(utterance, index) {
  const columns = columnsOf(utterance);
  const tight = utterance.unit === "CER";
  const box = el("div", { class: tight ? "aligned tight" : "aligned", "aria-hidden": "true" });
  box.dir = RIGHT_TO_LEFT.test(utterance.reference || utterance.results[0].hypothesis) ? "rtl" : "ltr";
  const labels = ["", ...SYSTEMS];
  if (SYSTEMS.length > 1)
    box.append(el("span", { class: "column labels" }, ...labels.map((name) => el("span", {}, name || "reference"))));
  const letters = Math.max(1, utterance.reference.length);
  let before = 0; // letters of the reference up to here, for the time of words whose time is not known
  const append = (from, to) => {
    for (const column of columns.slice(from, to)) {
      box.append(columnElement(utterance, column, before / letters));
      if (column.more) box.append(el("span", { class: "note" }, `… ${column.more} more inserted`));
      before += column.reference === null ? 0 : column.reference.length + 1;
    }
  };
  append(0, MAX_COLUMNS);
  if (columns.length > MAX_COLUMNS) {
    const rest = el("button", { type: "button", class: "more" }, `Show ${columns.length - MAX_COLUMNS} more`);
    rest.addEventListener("click", () => {
      rest.remove();
      append(MAX_COLUMNS, columns.length);
    });
    box.append(rest);
  }
  box.addEventListener("click", (event) => {
    const at = event.target.closest(".column")?.dataset.at;
    if (at !== undefined) play(index, box.closest("article"), Number(at) - 0.15);
  });
  return box;
}

function columnElement(utterance, column, share) {
  const node = el("span", { class: "column" });
  const wrong = column.cells.some((cell) => cell && cell.kind !== "=");
  node.append(
    el(
      "span",
      { class: wrong && column.reference !== null ? "reference wrong" : "reference" },
      column.reference ?? " ",
    ),
  );
  let word = null;
  column.cells.forEach((cell, system) => {
    const known = cell && cell.at >= 0 ? utterance.results[system].words?.[cell.at] : null;
    word ??= known;
    const kinds = ["hypothesis"];
    if (cell) kinds.push({ "=": "equal", s: "substituted", i: "inserted", d: "deleted" }[cell.kind]);
    // One system's right words stand in the line of the reference already.
    const repeated = SYSTEMS.length === 1 && cell?.kind === "=" && known?.[2] === undefined;
    const text = el("span", { class: kinds.join(" ") }, !cell || repeated ? " " : cell.text || "∅");
    if (known?.[2] !== undefined && known[2] !== null) {
      text.classList.add(`sure-${Math.min(4, Math.floor(5 * known[2]))}`);
      text.title = `probability ${known[2].toFixed(2)}`;
    }
    node.append(text);
  });
  if (word && word[0] !== null) [node.dataset.start, node.dataset.end, node.dataset.at] = [word[0], word[1], word[0]];
  else if (utterance.clip && utterance.duration) node.dataset.at = share * utterance.duration;
  return node;
}

/** Return what is said of an utterance beside its id. */
function facts(utterance) {
  const parts = [
    utterance.language,
    utterance.task === "translate" ? "translate" : null,
    seconds(utterance.duration),
    utterance.speaker,
  ];
  for (const measure of DATA.measures ?? [])
    if (utterance.measures[measure.key] !== null)
      parts.push(`${utterance.measures[measure.key].toFixed(measure.digits)} ${measure.unit}`);
  return parts.filter(Boolean).join(" · ");
}

function errorSummary(result, system, utterance) {
  const { errors, total } = result.counts;
  const rate = total ? ` (${(100 * result.rate).toFixed(0)} %)` : "";
  const text = errors ? `${plural(errors, "error")} in ${total}${rate}` : "no error";
  const signs = Object.entries(result.signs ?? {}).map(([sign, what]) =>
    el("span", { class: "sign", title: `${DATA.signs[sign]}: ${what}` }, sign.replaceAll("_", " ")),
  );
  const missing = result.written === null ? el("span", { class: "sign" }, "no hypothesis") : null;
  return el(
    "span",
    { class: errors ? "errors" : "right" },
    SYSTEMS.length > 1 ? el("span", { class: `name ${systemClass(system)}` }, `${SYSTEMS[system]}: `) : null,
    text,
    missing,
    ...signs,
  );
}

function utteranceElement(index) {
  const utterance = UTTERANCES[index];
  const hash = `#${encodeURIComponent(utterance.id)}`;
  const results = utterance.results ?? [];
  const item = el("article", { tabindex: -1, "data-index": index, "aria-label": utterance.id });
  const head = el("div", { class: "head" });
  if (utterance.clip)
    head.append(
      el(
        "button",
        { type: "button", class: "play", "aria-label": `Play ${utterance.id}`, onclick: () => toggle(index, item) },
        "▶",
      ),
    );
  head.append(
    el("h3", {}, el("a", { href: hash }, utterance.id)),
    el("span", { class: "facts" }, facts(utterance)),
    ...results.map((result, system) => errorSummary(result, system, utterance)),
    ...(utterance.problems ?? []).map((problem) => el("span", { class: "sign" }, problem)),
  );
  item.append(head);
  if (utterance.clip) item.append(waveform(index));
  if (results.length) {
    item.append(alignedTexts(utterance, index), writtenTexts(utterance), correction(utterance));
  } else item.append(el("p", { class: "text", dir: "auto" }, shortened(utterance.written)));
  return item;
}

const shortened = (text) => (text.length > 3000 ? `${text.slice(0, 3000)} … (${text.length} characters)` : text);

function writtenTexts(utterance) {
  const rows = [
    ["Reference", utterance.written],
    ...utterance.results.map((result, system) => [
      SYSTEMS.length > 1 ? SYSTEMS[system] : "Hypothesis",
      result.written ?? "(none)",
    ]),
  ];
  // A list that is always in the tree: screen readers read it in place of the columns.
  return el(
    "dl",
    { class: "written" },
    ...rows.flatMap(([name, text]) => [el("dt", {}, name), el("dd", { dir: "auto" }, shortened(text) || "(empty)")]),
  );
}

function correction(utterance) {
  const box = el("div", { class: "correction" });
  const fill = () => {
    const marked = corrections.has(utterance.id);
    const mark = el(
      "button",
      {
        type: "button",
        "aria-pressed": String(marked),
        class: "mark",
        onclick: () => {
          if (marked) corrections.delete(utterance.id);
          else corrections.set(utterance.id, utterance.written);
          changed();
        },
      },
      marked ? "Marked as wrong" : "Reference is wrong",
    );
    box.replaceChildren(mark);
    if (!marked) return;
    const out = corrections.get(utterance.id) === null;
    const input = el("textarea", {
      rows: 2,
      dir: "auto",
      "aria-label": "Corrected reference",
      disabled: out,
      oninput: () => {
        corrections.set(utterance.id, input.value);
        remember();
      },
    });
    input.value = corrections.get(utterance.id) ?? "";
    box.append(
      input,
      ...utterance.results.map((result, system) =>
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              corrections.set(utterance.id, result.written ?? "");
              changed();
            },
          },
          SYSTEMS.length > 1 ? `Use ${SYSTEMS[system]}` : "Use the hypothesis",
        ),
      ),
      el(
        "button",
        {
          type: "button",
          "aria-pressed": String(out),
          onclick: () => {
            corrections.set(utterance.id, out ? utterance.written : null);
            changed();
          },
        },
        "Leave it out",
      ),
    );
  };
  const changed = () => {
    fill();
    remember();
  };
  box.toggle = () => box.querySelector(".mark").click();
  fill();
  return box;
}

/** Keep the corrections for when the page is opened again, where the browser lets pages from disk keep anything. */
function remember() {
  byId("save-corrections").hidden = !corrections.size;
  byId("save-corrections").textContent = `Save ${plural(corrections.size, "correction")}`;
  try {
    localStorage.setItem(`corrections ${DATA.title}`, JSON.stringify([...corrections]));
  } catch {
    /* not allowed */
  }
}

function recall() {
  try {
    for (const [id, text] of JSON.parse(localStorage.getItem(`corrections ${DATA.title}`)) ?? [])
      if (BY_ID.has(id)) corrections.set(id, text);
  } catch {
    /* not allowed */
  }
}

function show(from) {
  stop();
  view.from = view.to = from;
  byId("list").replaceChildren(
    el(
      "button",
      { type: "button", class: "more", id: "earlier", onclick: () => show(Math.max(0, view.from - STEP)) },
      "Show previous ones",
    ),
    el("div", { id: "items" }),
    el("button", { type: "button", class: "more", id: "later", onclick: extend }, "Show more"),
  );
  extend();
  byId("earlier").hidden = from === 0;
  whenNear.observe(byId("later"));
}

function extend() {
  const next = view.order.slice(view.to, view.to + STEP);
  byId("items").append(...next.map(utteranceElement));
  view.to += next.length;
  byId("later").hidden = view.to >= view.order.length;
}
const whenNear = new IntersectionObserver(
  (entries) => {
    if (entries.some((entry) => entry.isIntersecting)) extend();
  },
  { rootMargin: "600px" },
);

/** Focus the utterance at a place in the present order. */
function focusAt(place) {
  if (place < 0 || place >= view.order.length) return;
  if (place < view.from || place >= view.to + STEP) show(place);
  else if (place >= view.to) extend();
  view.current = place;
  const item = byId("items").children[place - view.from];
  item.focus({ preventScroll: true });
  item.scrollIntoView({ block: "nearest" });
}

/** Show an utterance, whatever is filtered. */
function goTo(index) {
  if (!view.order.includes(index)) clearFilters();
  const place = view.order.indexOf(index);
  show(place);
  focusAt(place);
  byId("items").firstChild.scrollIntoView({ block: "start" });
}
