// Puts the page together. DATA, written by the Python side:
//   title, utterances: [{id, language, task, speaker, duration, written, clip, ...}]
//   of a scored set: systems: [name], signs: {name: meaning}, breakdowns, and in each utterance unit, text_language,
//     reference (normalised, its units parted by spaces) and results: [{hypothesis, written, alignment, signs, words}]
//   of a corpus: measures: [{key, name, unit, digits}], and in each utterance measures: {key: number}, problems: [name]
//   of either: durations: [range], histograms, lines

/** Return a table for each kind of error, the most frequent ones first; a click shows the utterances with an error. */
function confusionTables() {
  const all = confusions(UTTERANCES.keys());
  const languages = new Set(all.map((row) => row.language));
  return Object.entries(KINDS).flatMap(([kind, name]) => {
    const rows = all.filter((row) => row.kind === kind);
    if (!rows.length) return [];
    const sum = (row) => row.times.reduce((one, other) => one + other, 0);
    const unit = (side, links) => ({
      name: side,
      kind: "unit",
      value: (row) => row[side],
      cell: (row) =>
        links
          ? el("button", { type: "button", class: "link", onclick: () => filterBy("confusion", row) }, shortUnit(row[side]))
          : shortUnit(row[side]),
    });
    const columns = [
      ...(kind === "i" ? [] : [unit("reference", true)]),
      ...(kind === "d" ? [] : [unit("hypothesis", kind === "i")]),
      ...(languages.size > 1 ? [{ name: "language", minor: true, value: (row) => row.language }] : []),
      ...(SYSTEMS.length > 1
        ? SYSTEMS.map((system, index) => ({
            name: system,
            number: true,
            minor: SYSTEMS.length > 2,
            value: (row) => row.times[index],
          }))
        : []),
      { name: SYSTEMS.length > 1 ? "sum" : "times", number: true, value: sum },
    ];
    return [
      figure(`${name[0].toUpperCase()}${name.slice(1)}s`, null, sortedTable(`${name}s`, columns, rows, { limit: 10, by: columns.length - 1 })),
    ];
  });
}

const shortUnit = (text) => el("bdi", {}, text ? (text.length > 60 ? `${text.slice(0, 60)}…` : text) : "∅");

const KEYS = {
  j: () => focusAt(view.current + 1),
  k: () => focusAt(view.current - 1),
  " ": (item) => item && toggle(Number(item.dataset.index), item),
  x: (item) => item?.querySelector(".correction")?.toggle(),
  "/": () => byId("filters").elements.text.focus(),
  ArrowRight: () => {
    if (playing) PLAYER.currentTime += 1;
  },
  ArrowLeft: () => {
    if (playing) PLAYER.currentTime = Math.max(0, PLAYER.currentTime - 1);
  },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  if (
    event.target.closest("input, select, textarea, button, summary, a") &&
    !(event.key in { j: 1, k: 1, x: 1 } && event.target.closest("article") && !event.target.closest("textarea"))
  )
    return;
  if (event.key.startsWith("Arrow") && !playing) return;
  event.preventDefault();
  const item = view.current >= 0 ? byId("items").children[view.current - view.from] : null;
  KEYS[event.key](item);
});
document.addEventListener("focusin", (event) => {
  const item = event.target.closest("article");
  if (item) view.current = view.from + [...byId("items").children].indexOf(item);
});

function openHash() {
  let id;
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch {
    return;
  }
  if (BY_ID.has(id)) goTo(BY_ID.get(id));
}

/** Return what the colours of the alignments mean. */
function colourKey() {
  const sure = UTTERANCES.some((utterance) => utterance.confidence !== undefined);
  return el(
    "p",
    { class: "note key" },
    "Below the reference stands what the model wrote: ",
    el("span", { class: "substituted" }, "substituted"),
    " ",
    el("span", { class: "deleted" }, "∅ deleted"),
    " ",
    el("span", { class: "inserted" }, "inserted"),
    ".",
    ...(sure
      ? [
          " Underlined by the model's probability of the word: ",
          ...["under 0.2", "under 0.4", "under 0.6", "under 0.8"].flatMap((text, index) => [
            el("span", { class: `sure-${index}` }, text),
            " ",
          ]),
        ]
      : []),
  );
}

function start() {
  const found = charts();
  byId("charts").append(...found);
  for (const id of ["charts", "confusions"]) byId(id).classList.toggle("many", SYSTEMS.length > 2); // tables need room
  byId("section-charts").hidden = !found.length;
  if (SYSTEMS.length)
    byId("charts").before(el("p", { class: "note" }, "Click an underlined name, a bar of error kinds or a dot to see its utterances."));
  byId("section-utterances").hidden = !UTTERANCES.length;
  buildFilters();
  byId("filters").after(
    el(
      "p",
      { class: "note keys" },
      `Keys: j next utterance, k previous one, space play or pause, / search${SYSTEMS.length ? ", x mark the reference as wrong" : ""}. `,
      SYSTEMS.length && UTTERANCES.some((utterance) => utterance.clip)
        ? "Click a word to hear it; its place is estimated where word times are unknown."
        : "",
    ),
  );
  if (SYSTEMS.length) byId("count").before(colourKey());
  recall();
  apply();
  remember();
  openHash();
  // What takes longer comes after the first sight of the page.
  setTimeout(() => {
    redraws.forEach((draw) => draw());
    const tables = SYSTEMS.length ? confusionTables() : [];
    byId("confusions").append(...tables);
    byId("section-confusions").hidden = !tables.length;
    for (const section of document.querySelectorAll("main > section:not([hidden])"))
      if (section.id) byId("nav").append(el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
    document.body.dataset.ready = "";
  });
}

const redraw = () => {
  redraws.forEach((draw) => draw());
  redrawWaves();
};
window.addEventListener("resize", redraw);
window.addEventListener("hashchange", openHash);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
start();
