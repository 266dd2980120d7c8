// Transcripts as files, and where two of them differ. A transcript is a list of {start, end, text}, in seconds.

function clock(seconds, mark) {
  const milliseconds = Math.round(1000 * seconds);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  const rest = String(milliseconds % 1000).padStart(3, "0");
  return `${two(milliseconds / 3.6e6)}:${two((milliseconds / 6e4) % 60)}:${two((milliseconds / 1000) % 60)}${mark}${rest}`;
}

/** Return minutes and seconds, as lines show them. */
export function shortClock(seconds) {
  const whole = Math.floor(seconds);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

const times = ({ start, end }, mark) => `${clock(start, mark)} --> ${clock(end, mark)}`;
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

export const FORMATS = {
  txt: (segments) => segments.map(({ text }) => `${text}\n`).join(""),
  srt: (segments) =>
    segments.map((one, n) => `${n + 1}\n${times(one, ",")}\n${one.text.replaceAll("-->", "->")}\n`).join("\n"),
  vtt: (segments) => `WEBVTT\n${segments.map((one) => `\n${times(one, ".")}\n${escaped(one.text)}\n`).join("")}`,
  json: (segments, facts) => `${JSON.stringify({ ...facts, segments }, null, 2)}\n`,
};

// Characters of languages without spaces count as words.
const UNIT = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}\p{sc=Tibetan}]\p{M}*|[^\s\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}\p{sc=Tibetan}]+/gu;
const BLOCK = 300; // seconds that are compared at a time, so that hours need no hour

/** Return {segment, from, to, word} of each word of a transcript; `word` is without case and punctuation. */
function words(segments) {
  return segments.flatMap(({ text, start }, segment) =>
    [...text.matchAll(UNIT)]
      .map(({ 0: unit, index }) => ({
        segment,
        block: Math.floor(start / BLOCK),
        from: index,
        to: index + unit.length,
        word: unit.toLowerCase().replace(/[\p{P}\p{S}]/gu, ""),
      }))
      .filter(({ word }) => word),
  );
}

/** Mark the words that have no counterpart, by the longest common subsequence. */
function align(ours, theirs) {
  const [rows, columns] = [ours.length + 1, theirs.length + 1];
  const longest = new Uint16Array(rows * columns); // of what is left from here on
  for (let i = ours.length - 1; i >= 0; i--)
    for (let j = theirs.length - 1; j >= 0; j--)
      longest[i * columns + j] =
        ours[i].word === theirs[j].word
          ? longest[(i + 1) * columns + j + 1] + 1
          : Math.max(longest[(i + 1) * columns + j], longest[i * columns + j + 1]);
  let [i, j] = [0, 0];
  while (i < ours.length || j < theirs.length) {
    if (i < ours.length && j < theirs.length && ours[i].word === theirs[j].word) {
      i++;
      j++;
    } else if (j === theirs.length || (i < ours.length && longest[(i + 1) * columns + j] >= longest[i * columns + j + 1]))
      ours[i++].differs = true;
    else theirs[j++].differs = true;
  }
}

/** Return for two transcripts the words that differ: [{segment, from, to} of the first, of the second]. */
export function differences(first, second) {
  const found = [words(first), words(second)];
  const blocks = new Set(found.flat().map(({ block }) => block));
  for (const block of blocks) align(...found.map((list) => list.filter((word) => word.block === block)));
  return found.map((list) => list.filter(({ differs }) => differs));
}
