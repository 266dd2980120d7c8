// Alignments: `=5s1i2d1` says what was equal, substituted, inserted and deleted, unit by unit.

const SYSTEMS = DATA.systems ?? [];
const UTTERANCES = DATA.utterances;
const BY_ID = new Map(UTTERANCES.map((utterance, index) => [utterance.id, index]));
const MAX_COLUMNS = 300; // units of an utterance that are shown at once
const MAX_INSERTED = 12; // columns of insertions in a row; a loop has hundreds, and they stand in the text as written
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/u;

const units = (text) => (text ? text.split(" ") : []);

function* chunks(alignment) {
  for (const [, kind, length] of alignment.matchAll(/([=sid])(\d+)/g)) yield [kind, Number(length)];
}

/** Yield [kind, reference's unit or "", hypothesis' unit or "", index in the hypothesis or -1] of a system's result. */
function* steps(utterance, result) {
  const [reference, hypothesis] = [units(utterance.reference), units(result.hypothesis)];
  let [r, h] = [0, 0];
  for (const [kind, length] of chunks(result.alignment)) {
    for (let n = 0; n < length; n++) {
      const [inReference, inHypothesis] = [kind !== "i", kind !== "d"];
      yield [kind, inReference ? reference[r] : "", inHypothesis ? hypothesis[h] : "", inHypothesis ? h : -1];
      r += inReference;
      h += inHypothesis;
    }
  }
}

/** Count what each system did wrong in an utterance; `counts` is kept with its result. */
function countErrors() {
  for (const utterance of UTTERANCES) {
    for (const result of utterance.results ?? []) {
      const counts = { "=": 0, s: 0, i: 0, d: 0 };
      for (const [kind, length] of chunks(result.alignment)) counts[kind] += length;
      const total = counts["="] + counts.s + counts.d;
      const errors = counts.s + counts.i + counts.d;
      result.counts = { ...counts, total, errors, length: counts["="] + counts.s + counts.i };
      result.rate = total ? errors / total : errors ? Infinity : 0;
    }
  }
}
countErrors();

/**
 * Return the columns of an utterance: a unit of the reference above what each system wrote for it.
 *
 * {reference: unit or null, cells: [{kind, text, at: index in the hypothesis} or null, a system each]}; the last one of
 * a long row of insertions has `more`, how many are left out.
 */
function columnsOf(utterance) {
  const reference = units(utterance.reference);
  const gaps = Array.from({ length: reference.length + 1 }, () => SYSTEMS.map(() => []));
  const aligned = reference.map(() => SYSTEMS.map(() => null));
  utterance.results.forEach((result, system) => {
    let r = 0;
    for (const [kind, , text, at] of steps(utterance, result)) {
      if (kind === "i") gaps[r][system].push({ kind, text, at });
      else aligned[r++][system] = { kind, text, at };
    }
  });
  const columns = [];
  gaps.forEach((gap, r) => {
    const longest = Math.max(...gap.map((inserted) => inserted.length));
    const shown = longest > MAX_INSERTED ? MAX_INSERTED / 2 : longest;
    for (let n = 0; n < shown; n++)
      columns.push({
        reference: null,
        cells: gap.map((inserted) => inserted[n] ?? null),
        more: n === shown - 1 ? longest - shown : 0,
      });
    if (r < reference.length) columns.push({ reference: reference[r], cells: aligned[r] });
  });
  return columns;
}

/** Count errors of utterances (indices): [{kind, language, reference, hypothesis, times: a number a system}]. */
function confusions(indices) {
  const found = new Map();
  for (const index of indices) {
    const utterance = UTTERANCES[index];
    utterance.results.forEach((result, system) => {
      if (!result.counts.errors) return;
      for (const [kind, reference, hypothesis] of steps(utterance, result)) {
        if (kind === "=") continue;
        const key = JSON.stringify([kind, utterance.text_language, reference, hypothesis]);
        if (!found.has(key)) {
          const times = SYSTEMS.map(() => 0);
          found.set(key, { kind, language: utterance.text_language, reference, hypothesis, times });
        }
        found.get(key).times[system]++;
      }
    });
  }
  return [...found.values()];
}

const KINDS = { s: "substitution", i: "insertion", d: "deletion" };
