// Sound: one player for the page, the outline of the waveform, and the word that is being said.

const PLAYER = new Audio();
PLAYER.id = "player";
const URLS = new Map(); // number of a clip -> its URL
let playing = null; // {index, canvas, words} of the utterance that is being played

const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

function clipUrl(clip) {
  if (clip.file) return clip.file;
  if (!URLS.has(clip.number)) {
    const blob = new Blob([bytes(byId(`clip-${clip.number}`).textContent)], { type: "audio/ogg" });
    URLS.set(clip.number, URL.createObjectURL(blob));
  }
  return URLS.get(clip.number);
}

/** Play an utterance from a second of it; `item` is its element in the list. */
function play(index, item, from = 0) {
  const { clip } = UTTERANCES[index];
  if (!clip) return;
  if (playing?.index !== index) {
    stop();
    PLAYER.src = clipUrl(clip);
  }
  playing = { index, item };
  item.classList.add("playing");
  PLAYER.currentTime = Math.max(0, from);
  PLAYER.play().catch((error) => {
    byId("count").textContent = `The sound can't be played: ${error.message}`;
  });
  follow();
}

function stop() {
  PLAYER.pause();
  if (playing) {
    playing.item.classList.remove("playing");
    showPosition(playing.item, null);
  }
  playing = null;
}

function toggle(index, item) {
  if (playing?.index !== index) play(index, item);
  else if (PLAYER.paused) play(index, item, PLAYER.ended ? 0 : PLAYER.currentTime);
  else PLAYER.pause();
}

function follow() {
  if (!playing) return;
  showPosition(playing.item, PLAYER.currentTime);
  if (PLAYER.ended) stop();
  else if (!PLAYER.paused) requestAnimationFrame(follow);
}
PLAYER.addEventListener("ended", follow);
PLAYER.addEventListener("seeked", follow);

/** Move the mark in the waveform, and mark the words that are said at a second; null removes both marks. */
function showPosition(item, second) {
  const canvas = item.querySelector("canvas");
  if (canvas) drawWave(canvas, second);
  for (const word of item.querySelectorAll("[data-start]"))
    word.classList.toggle("now", second !== null && second >= word.dataset.start && second < word.dataset.end);
}

function drawWave(canvas, second = null) {
  const { clip, duration } = UTTERANCES[canvas.dataset.index];
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const style = getComputedStyle(canvas);
  clip.outline ??= bytes(clip.peaks);
  // Quiet recordings are drawn as large as loud ones: it is the words that are looked for.
  const loudest = Math.max(8, ...clip.outline);
  const reached = second === null ? -1 : (second / (duration || PLAYER.duration || 1)) * width;
  clip.outline.forEach((peak, index) => {
    const x = (index * width) / clip.outline.length;
    const size = Math.max(1, (peak / loudest) * height);
    context.fillStyle = x < reached ? style.getPropertyValue("--accent") : style.getPropertyValue("--wave");
    context.fillRect(x, (height - size) / 2, Math.max(1, width / clip.outline.length - 0.5), size);
  });
}

/** Return the waveform of an utterance with sound; a click plays from there. */
function waveform(index) {
  const utterance = UTTERANCES[index];
  const canvas = el("canvas", { class: "wave", "data-index": index, "aria-hidden": "true" });
  canvas.addEventListener("click", (event) => {
    const share = event.offsetX / canvas.clientWidth;
    play(index, canvas.closest("article"), share * (utterance.duration || PLAYER.duration || 0));
  });
  requestAnimationFrame(() => drawWave(canvas));
  return canvas;
}

function redrawWaves() {
  for (const canvas of document.querySelectorAll("canvas.wave")) drawWave(canvas);
}
