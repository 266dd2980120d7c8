// Puts the page together. DATA, written by the Python side:
//   title, utterances: [{id, language, task, speaker, duration, written, clip, ...}]
//   of a scored set: systems: [name], signs: {name: meaning}, breakdowns, and in each utterance unit, text_language,
//     reference (normalised, its units parted by spaces) and results: [{hypothesis, written, alignment, signs, words}]
//   of a corpus: measures: [{key, name, unit, digits}], and in each utterance measures: {key: number}, problems: [name]
//   of either: durations: [range], histograms, lines

function confusionsTable() {
  const rows = confusions(UTTERANCES.keys());
  if (!rows.length) return null;
  const sum = (row) => row.times.reduce((one, other) => one + other, 0);
  const columns = [
    {
      name: "kind",
      value: (row) => KINDS[row.kind],
      cell: (row) =>
        el(
          "button",
          {
            type: "button",
            class: "link",
            onclick: () => filterBy("confusion", row),
            "aria-label": `Show utterances with the ${KINDS[row.kind]} ${row.reference} ${row.hypothesis}`,
          },
          KINDS[row.kind],
        ),
    },
    { name: "reference", kind: "unit", value: (row) => row.reference, cell: (row) => shortUnit(row.reference) },
    { name: "hypothesis", kind: "unit", value: (row) => row.hypothesis, cell: (row) => shortUnit(row.hypothesis) },
    { name: "language", minor: true, value: (row) => row.language },
    ...(SYSTEMS.length > 1
      ? SYSTEMS.map((name, system) => ({ name, number: true, value: (row) => row.times[system] }))
      : []),
    { name: SYSTEMS.length > 1 ? "all" : "times", number: true, value: sum },
  ];
  return sortedTable(
    "Frequent errors",
    columns,
    rows.filter((row) => sum(row) > 1).length > 20 ? rows.filter((row) => sum(row) > 1) : rows,
    { limit: 20, by: columns.length - 1 },
  );
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
    "The reference, and below it what differs: ",
    el("span", { class: "substituted" }, "substituted"),
    " ",
    el("span", { class: "deleted" }, "∅ deleted"),
    " ",
    el("span", { class: "inserted" }, "inserted"),
    ".",
    ...(sure
      ? [
          " Probability of words: ",
          ...["under 0.2", "0.4", "0.6", "0.8"].flatMap((text, index) => [
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
  byId("section-charts").hidden = !found.length;
  byId("section-utterances").hidden = !UTTERANCES.length;
  buildFilters();
  byId("filters").after(
    el(
      "p",
      { class: "note keys" },
      `Keys: j and k go to the next and previous utterance, space plays it, / searches${SYSTEMS.length ? ", x marks its reference as wrong" : ""}. `,
      SYSTEMS.length && UTTERANCES.some((utterance) => utterance.clip)
        ? "A click on a word plays it: where word times are not known, from about there."
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
    const table = SYSTEMS.length ? confusionsTable() : null;
    if (table) byId("confusions").append(table);
    byId("section-confusions").hidden = !table;
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
