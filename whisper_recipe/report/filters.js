// What is shown of the utterances and in which order.

const ANY = "";
const FILTERS = {
  text: ANY,
  language: ANY,
  task: ANY,
  speaker: ANY,
  duration: ANY,
  sign: ANY,
  problem: ANY,
  kind: ANY,
  outcome: ANY,
  range: null,
  confusion: null,
};
const filters = { ...FILTERS };
const order = { by: null, down: true };

const best = (utterance, of) => Math.max(...utterance.results.map(of));
/** Return how many errors more than the first system the worst or best other one makes, whichever is farther. */
const gain = (utterance) =>
  utterance.results.slice(1).reduce((most, result) => {
    const more = result.counts.errors - utterance.results[0].counts.errors;
    return Math.abs(more) > Math.abs(most) ? more : most;
  }, 0);

/** What utterances can be sorted by: name -> value. */
const SORTS = SYSTEMS.length
  ? {
      ...(SYSTEMS.length > 1 ? { "wins and losses": (utterance) => Math.abs(gain(utterance)) } : {}),
      errors: (utterance) => best(utterance, (result) => result.counts.errors),
      "error rate": (utterance) => best(utterance, (result) => result.rate),
      insertions: (utterance) => best(utterance, (result) => result.counts.i),
      deletions: (utterance) => best(utterance, (result) => result.counts.d),
      substitutions: (utterance) => best(utterance, (result) => result.counts.s),
      "length of the reference": (utterance) => utterance.results[0].counts.total,
      "length ratio": (utterance) =>
        best(utterance, (result) => result.counts.length / Math.max(1, result.counts.total)),
      ...(UTTERANCES.some((utterance) => utterance.confidence !== undefined)
        ? { confidence: (utterance) => utterance.confidence }
        : {}),
    }
  : {
      "order of the list": (utterance) => -BY_ID.get(utterance.id),
      ...Object.fromEntries(
        (DATA.measures ?? []).map(({ key, name }) => [name, (utterance) => utterance.measures[key]]),
      ),
    };
Object.assign(SORTS, {
  duration: (utterance) => utterance.duration,
  id: (utterance) => utterance.id,
  speaker: (utterance) => utterance.speaker,
});

const values = (of) => [...new Set(UTTERANCES.flatMap(of))].filter((value) => value !== null && value !== undefined);

function select(name, label, options) {
  if (options.length < 2) return null;
  const field = el(
    "select",
    {
      name,
      onchange: () => {
        filters[name] = field.value;
        apply();
      },
    },
    el("option", { value: ANY }, "all"),
    ...options.map((option) => {
      const [value, text] = Array.isArray(option) ? option : [option, option];
      return el("option", { value }, text);
    }),
  );
  return el("label", {}, label, field);
}

function buildFilters() {
  const search = el("input", {
    type: "search",
    name: "text",
    autocomplete: "off",
    oninput: () => {
      filters.text = search.value;
      apply();
    },
  });
  const sorts = el(
    "select",
    {
      name: "sort",
      onchange: () => {
        order.by = sorts.value;
        apply();
      },
    },
    ...Object.keys(SORTS).map((name) => el("option", { value: name }, name)),
  );
  order.by = Object.keys(SORTS)[0];
  const direction = el(
    "button",
    {
      type: "button",
      "aria-label": "Reverse the order",
      onclick: () => {
        order.down = !order.down;
        direction.textContent = order.down ? "↓" : "↑";
        apply();
      },
    },
    "↓",
  );
  const scored = SYSTEMS.length > 0;
  const kinds = [
    ["any", "any"],
    ["none", "no error"],
    ["s", "substitution"],
    ["i", "insertion"],
    ["d", "deletion"],
  ];
  const outcomes = [
    ["differ", "hypotheses differ"],
    ...SYSTEMS.slice(1).flatMap((name, index) => [
      [`better ${index + 1}`, `${name} better than ${SYSTEMS[0]}`],
      [`worse ${index + 1}`, `${name} worse than ${SYSTEMS[0]}`],
    ]),
  ];
  byId("filters").append(
    ...[
      el("label", { class: "search" }, "Search", search),
      select("language", "Language", values((one) => one.language).sort()),
      select("task", "Task", values((one) => one.task).sort()),
      select("speaker", "Speaker", values((one) => one.speaker).sort()),
      select("duration", "Duration", DATA.durations ?? []),
      scored ? select("kind", "Errors", kinds) : null,
      SYSTEMS.length > 1 ? select("outcome", "Outcome", outcomes) : null,
      scored
        ? select("sign", "Sign of made-up text", [
            ["any", "any"],
            ...values((one) => one.results.flatMap((result) => Object.keys(result.signs ?? {}))).sort(),
          ])
        : null,
      select("problem", "Why it is listed", values((one) => one.problems ?? []).sort()),
      el("label", {}, "Sort by", el("span", { class: "pair" }, sorts, direction)),
      el("button", { type: "button", id: "clear", onclick: () => clearFilters() }, "Clear"),
      el("button", {
        type: "button",
        id: "save-ids",
        title: "What the filters leave, for whisper-recipe subset --ids or filter --rules.exclude",
        onclick: () => saveFile("ids.txt", view.order.map((index) => `${UTTERANCES[index].id}\n`).join("")),
      }),
      el("button", {
        type: "button",
        id: "save-corrections",
        title: "For whisper-recipe fix --corrections",
        hidden: true,
        onclick: () =>
          saveFile(
            "corrections.jsonl",
            [...corrections].map(([id, text]) => `${JSON.stringify({ id, text })}\n`).join(""),
          ),
      }),
    ].filter(Boolean),
  );
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
}

function outcomeIs(utterance, outcome) {
  const errors = utterance.results.map((result) => result.counts.errors);
  if (outcome === "differ") return new Set(utterance.results.map((result) => result.hypothesis)).size > 1;
  const [which, system] = outcome.split(" ");
  return which === "better" ? errors[system] < errors[0] : errors[system] > errors[0];
}

function hasConfusion(utterance, { kind, language, reference, hypothesis }) {
  if (utterance.text_language !== language) return false;
  for (const result of utterance.results) {
    if (!result.counts[kind]) continue;
    for (const step of steps(utterance, result))
      if (step[0] === kind && step[1] === reference && step[2] === hypothesis) return true;
  }
  return false;
}

function searched(utterance) {
  utterance.searched ??= [
    utterance.id,
    utterance.written,
    utterance.reference ?? "",
    ...(utterance.results ?? []).flatMap((result) => [result.hypothesis, result.written ?? ""]),
  ]
    .join("\n")
    .toLowerCase();
  return utterance.searched;
}

function passes(utterance) {
  const { text, language, task, speaker, duration, sign, problem, kind, outcome, range, confusion } = filters;
  const results = utterance.results ?? [];
  return (
    (!language || utterance.language === language) &&
    (!task || utterance.task === task) &&
    (!speaker || utterance.speaker === speaker) &&
    (!duration || utterance.duration_range === duration) &&
    (!sign || results.some(({ signs = {} }) => (sign === "any" ? Object.keys(signs).length : sign in signs))) &&
    (!problem || utterance.problems.includes(problem)) &&
    (!kind ||
      (kind === "none"
        ? results.every((result) => !result.counts.errors)
        : results.some((result) => (kind === "any" ? result.counts.errors : result.counts[kind])))) &&
    (!outcome || outcomeIs(utterance, outcome)) &&
    (range === null || results.some((result) => rateRange(result.rate) === range)) &&
    (!text || searched(utterance).includes(text.toLowerCase())) &&
    (!confusion || hasConfusion(utterance, confusion))
  );
}

/** Show what passes the filters, sorted. */
function apply() {
  const value = SORTS[order.by];
  const found = [];
  UTTERANCES.forEach((utterance, index) => {
    if (passes(utterance)) found.push({ index, key: value(utterance) });
  });
  found.sort((one, other) => compare(one.key, other.key, order.down));
  view.order = found.map(({ index }) => index);
  view.current = -1;
  byId("save-ids").textContent = `Save ${plural(view.order.length, "id")}`;
  byId("count").replaceChildren(
    `${view.order.length.toLocaleString("en")} of ${plural(UTTERANCES.length, "utterance")}`,
    ...chips(),
  );
  show(0);
}

/** Return what is filtered by that no field of the form shows, with a button to remove it. */
function chips() {
  const texts = {
    range: filters.range === null ? null : "error rate: one range of the chart",
    confusion:
      filters.confusion &&
      `${KINDS[filters.confusion.kind]}: ${filters.confusion.reference || "∅"} → ${filters.confusion.hypothesis || "∅"}`,
  };
  return Object.entries(texts)
    .filter(([, text]) => text)
    .map(([name, text]) =>
      el(
        "button",
        {
          type: "button",
          class: "chip",
          onclick: () => {
            filters[name] = null;
            apply();
          },
        },
        `${text} ✕`,
      ),
    );
}

/** Set a filter from a chart or table, and go to the list; the other filters stay where that leaves anything to see. */
function filterBy(name, value) {
  setFilter(name, value);
  if (!view.order.length) {
    clearFilters();
    setFilter(name, value);
  }
  byId("section-utterances").scrollIntoView();
  byId("count").focus?.();
}

function setFilter(name, value) {
  filters[name] = value;
  const field = byId("filters").elements[name];
  if (field) field.value = value;
  apply();
}

function clearFilters() {
  Object.assign(filters, FILTERS);
  for (const field of byId("filters").elements) if (field.name in FILTERS) field.value = ANY;
  apply();
}
