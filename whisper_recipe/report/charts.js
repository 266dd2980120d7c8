// Charts: error rates of parts with intervals, distributions, lengths, learning curves. A click filters the utterances.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const figure = (title, note, ...content) =>
  el(
    "figure",
    {},
    el("figcaption", {}, el("h3", {}, title), note ? el("p", { class: "note" }, note) : null),
    ...content,
  );

const systemClass = (system) => `system-${system % 6}`;

function legend() {
  if (SYSTEMS.length < 2) return null;
  return el(
    "p",
    { class: "legend" },
    ...SYSTEMS.map((name, system) => el("span", { class: systemClass(system) }, name)),
  );
}

/** Return the error rates of a breakdown's parts: [{part, unit, utterances, systems: [{rate, low, high}]}]. */
function breakdown({ name, parts }) {
  const top = Math.max(
    0.01,
    ...parts.flatMap((part) => part.systems.map((one) => Math.max(one?.rate ?? 0, Math.min(one?.high ?? 0, 1.5)))),
  );
  const bar = (one, system) => {
    const node = el("div", { class: `bar ${systemClass(system)}` }, el("i"), el("b"));
    const place = (value) => `${(100 * Math.min(value, top)) / top}%`;
    node.firstChild.style.width = place(one.rate);
    if (one.low === null) node.lastChild.hidden = true;
    else {
      node.lastChild.style.left = place(one.low);
      node.lastChild.style.right = `calc(100% - ${place(one.high)})`;
    }
    return node;
  };
  const columns = [
    {
      name,
      value: (row) => row.part,
      cell: (row) => el("button", { type: "button", class: "link", onclick: () => filterBy(name, row.part) }, row.part),
    },
    {
      name: "with 95 % interval",
      kind: "bars",
      value: (row) => row.systems[0]?.rate,
      cell: (row) =>
        el(
          "div",
          { "aria-hidden": "true" },
          ...row.systems.map((one, system) => (one && one.rate !== null ? bar(one, system) : null)),
        ),
    },
    ...SYSTEMS.map((system, index) => ({
      name: SYSTEMS.length > 1 ? system : "%",
      number: true,
      value: (row) => row.systems[index]?.rate,
      cell: (row) => percent(row.systems[index]?.rate),
    })),
    { name: "utterances", number: true, minor: true, value: (row) => row.utterances },
  ];
  const worstFirst = parts.length > 15 ? { by: 1 } : {};
  return figure(
    `Error rate by ${name}`,
    null,
    legend(),
    sortedTable(`Error rate by ${name}`, columns, parts, worstFirst),
  );
}

/** Return bars of how many are in each range: [{label, counts: a number a system, onclick}]. */
function histogram(title, note, ranges) {
  const top = Math.max(1, ...ranges.flatMap((range) => range.counts));
  const rows = ranges.map((range) =>
    el(
      "div",
      { class: "range" },
      range.onclick
        ? el("button", { type: "button", class: "link", onclick: range.onclick }, range.label)
        : el("span", {}, range.label),
      el(
        "div",
        { class: "bars" },
        ...range.counts.map((count, system) => {
          const bar = el(
            "div",
            { class: `bar ${systemClass(system)}` },
            el("i"),
            el("span", {}, count.toLocaleString("en")),
          );
          bar.firstChild.style.width = `${(80 * count) / top}%`;
          return bar;
        }),
      ),
    ),
  );
  return figure(title, note, legend(), el("div", { class: "histogram" }, ...rows));
}

const RATE_EDGES = [0, 0.1, 0.2, 0.3, 0.5, 0.75, 1];

/** Return which range of RATE_EDGES a rate is in: 0 is without error, the last is over 100 %. */
const rateRange = (rate) => (rate > 1 ? RATE_EDGES.length : RATE_EDGES.findIndex((edge) => rate <= edge));

function rateDistribution() {
  const counts = Array.from({ length: RATE_EDGES.length + 1 }, () => SYSTEMS.map(() => 0));
  for (const utterance of UTTERANCES)
    utterance.results.forEach((result, system) => counts[rateRange(result.rate)][system]++);
  const name = (range) =>
    range === 0
      ? "no error"
      : range === RATE_EDGES.length
        ? "over 100 %"
        : `${100 * RATE_EDGES[range - 1]}–${100 * RATE_EDGES[range]} %`;
  return histogram(
    "Error rates of single utterances",
    "How many utterances have an error rate in each range.",
    counts.map((of, range) => ({
      label: name(range),
      counts: of,
      onclick: () => filterBy("range", range),
    })),
  );
}

function errorKinds() {
  const sums = SYSTEMS.map((_, system) => {
    const sum = { s: 0, d: 0, i: 0, total: 0 };
    for (const { results } of UTTERANCES) for (const key of Object.keys(sum)) sum[key] += results[system].counts[key];
    return sum;
  });
  const top = Math.max(...sums.map((sum) => sum.s + sum.d + sum.i), 1);
  const rows = SYSTEMS.map((name, system) => {
    const bar = el(
      "div",
      { class: "kinds" },
      ...["s", "d", "i"].map((kind) => {
        const part = el(
          "button",
          {
            type: "button",
            class: `kind-${kind}`,
            onclick: () => filterBy("kind", kind),
            title: plural(sums[system][kind], KINDS[kind]),
            "aria-label": `${name}: ${plural(sums[system][kind], KINDS[kind])}`,
          },
        );
        part.style.flexGrow = sums[system][kind];
        return part;
      }),
    );
    bar.style.width = `${(100 * (sums[system].s + sums[system].d + sums[system].i)) / top}%`;
    const rates = ["s", "d", "i"].map((kind) =>
      el(
        "span",
        { class: `kind-${kind}` },
        `${KINDS[kind]}s ${percent(sums[system][kind] / Math.max(1, sums[system].total))}`,
      ),
    );
    return el("div", {}, SYSTEMS.length > 1 ? name : null, bar, el("div", { class: "rates" }, ...rates));
  });
  return figure("Kinds of errors (%)", null, el("div", { class: "histogram" }, ...rows));
}

/** Return the plot of the hypothesis' length against the reference's: loops stand high, omissions low. */
function lengths() {
  const points = UTTERANCES.flatMap((utterance, index) =>
    utterance.results.map((result, system) => ({
      index,
      system,
      x: result.counts.total,
      y: result.counts.length,
    })),
  );
  const limit = Math.max(10, ...points.map((point) => point.x));
  const top = Math.max(
    10,
    Math.min(
      3 * limit,
      points.reduce((most, point) => Math.max(most, point.y), 0),
    ),
  );
  const canvas = el("canvas", {
    class: "scatter",
    role: "img",
    "aria-label": "Length of each hypothesis and of its reference",
  });
  const tip = el(
    "p",
    { class: "note tip", "aria-hidden": "true" },
    "Point at a dot to see which utterance it is; click to go there.",
  );
  const pad = 36;
  const place = (point) => [
    pad + (point.x / limit) * (canvas.clientWidth - pad - 8),
    canvas.clientHeight - pad - (Math.min(point.y, top) / top) * (canvas.clientHeight - pad - 18),
  ];
  function draw() {
    const scale = window.devicePixelRatio || 1;
    if (!canvas.clientWidth) return;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    context.scale(scale, scale);
    context.font = "12px system-ui, sans-serif";
    context.strokeStyle = style.getPropertyValue("--line");
    context.fillStyle = style.getPropertyValue("--muted");
    const line = (from, to) => {
      context.beginPath();
      context.moveTo(...place(from));
      context.lineTo(...place(to));
      context.stroke();
    };
    const diagonal = Math.min(limit, top);
    line({ x: 0, y: 0 }, { x: diagonal, y: diagonal });
    context.textAlign = "right";
    for (const tick of ticks(0, top)) {
      line({ x: 0, y: tick }, { x: limit, y: tick });
      context.fillText(`${tick}`, pad - 5, place({ x: 0, y: tick })[1] + 4);
    }
    context.textAlign = "center";
    for (const tick of ticks(0, limit)) context.fillText(`${tick}`, place({ x: tick, y: 0 })[0], place({ x: 0, y: 0 })[1] + 15);
    context.textAlign = "right";
    context.fillText("length of the reference", canvas.clientWidth - 8, canvas.clientHeight - 3);
    context.textAlign = "left";
    context.fillText("length of the hypothesis", pad + 6, 12);
    // Dots at one place would hide how many there are, and the systems each other: they are scattered a little.
    context.globalAlpha = points.length > 2000 ? 0.4 : 0.7;
    points.forEach((point, index) => {
      const [x, y] = place(point);
      const [right, down] = [((index * 7) % 9) - 4, ((index * 5) % 7) - 3];
      context.fillStyle = style.getPropertyValue(`--system-${point.system % 6}`);
      context.fillRect(x + right - 1.5, y + down - 1.5, 3, 3);
    });
  }
  const nearest = (event) =>
    points.reduce(
      (best, point) => {
        const [x, y] = place(point);
        const distance = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
        return distance < best.distance ? { point, distance } : best;
      },
      { point: null, distance: 400 },
    ).point;
  canvas.addEventListener("mousemove", (event) => {
    const point = nearest(event);
    canvas.classList.toggle("hand", Boolean(point));
    if (point) tip.textContent = `${UTTERANCES[point.index].id}: length ${point.y}, reference ${point.x}`;
  });
  canvas.addEventListener("click", (event) => {
    const point = nearest(event);
    if (point) goTo(point.index);
  });
  redraws.push(draw);
  return figure(
    "Length of hypothesis and reference",
    `In ${UTTERANCES.every((one) => one.unit === "WER") ? "words" : "words or characters"}. Far above the diagonal: loops and made-up text; far below it: omissions.`,
    legend(),
    canvas,
    tip,
  );
}
const redraws = [];

/** Return some round numbers from `low` to `high`. */
function ticks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= rough * 0.999);
  const from = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - from + 1;
  return Array.from({ length: Math.max(0, count) }, (_, index) => Number(((from + index) * step).toPrecision(6)));
}

/**
 * Return a line chart: {title, note, x, y, series: [{name, points: [[x, y]]}], diagonal}.
 *
 * With a diagonal both axes go from 0 to 1, and points may have a third number, their weight. A series may have the
 * number of the `system` whose colour it has.
 */
function lines({ title, note, x, y, series, diagonal = false }) {
  const [width, height, left, right, bottom] = [460, 240, 48, 16, 34];
  const all = series.flatMap((one) => one.points);
  const range = (axis) => [Math.min(...all.map((point) => point[axis])), Math.max(...all.map((point) => point[axis]))];
  const [[x0, x1], [y0, y1]] = diagonal
    ? [
        [0, 1],
        [0, 1],
      ]
    : [range(0), [Math.min(0, range(1)[0]), range(1)[1]]];
  const place = ([px, py]) => [
    left + ((px - x0) / (x1 - x0 || 1)) * (width - left - right),
    height - bottom - ((py - y0) / (y1 - y0 || 1)) * (height - bottom - 10),
  ];
  const text = (px, py, anchor, value) => svg("text", { x: px, y: py, "text-anchor": anchor }, value);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}, ${y}` });
  for (const tick of ticks(y0, y1)) {
    const [px, py] = place([x0, tick]);
    drawing.append(svg("path", { class: "axis", d: `M${px},${py}H${width - right}` }), text(px - 6, py + 4, "end", tick));
  }
  for (const tick of ticks(x0, x1)) drawing.append(text(place([tick, y0])[0], height - bottom + 16, "middle", tick));
  drawing.append(text(width - right, height - 4, "end", x));
  if (diagonal) drawing.append(svg("path", { class: "diagonal", d: `M${place([0, 0])}L${place([1, 1])}` }));
  const colour = (one, index) => systemClass(one.system ?? index);
  const heaviest = Math.max(...all.map((point) => point[2] ?? 0));
  series.forEach((one, index) => {
    drawing.append(svg("path", { class: `curve ${colour(one, index)}`, d: `M${one.points.map(place).join("L")}` }));
    if (one.points.length < 60)
      for (const point of one.points) {
        const [cx, cy] = place(point);
        const r = heaviest ? 2 + 6 * Math.sqrt(point[2] / heaviest) : 3;
        const said = point.map((value) => Number(value.toPrecision(3))).join(", ");
        drawing.append(svg("circle", { class: colour(one, index), cx, cy, r }, svg("title", {}, `${one.name}: ${said}`)));
      }
  });
  const names = el(
    "p",
    { class: "legend" },
    ...series.map((one, index) => el("span", { class: colour(one, index) }, one.name)),
  );
  return figure(`${title} (${y})`, note, series.length > 1 || !diagonal ? names : null, drawing);
}

function charts() {
  const found = [];
  for (const one of DATA.breakdowns ?? []) found.push(breakdown(one));
  if (SYSTEMS.length) found.push(errorKinds(), rateDistribution(), lengths());
  for (const one of DATA.histograms ?? []) found.push(histogram(one.title, one.note, one.ranges));
  for (const one of DATA.lines ?? []) found.push(lines(one));
  return found;
}
