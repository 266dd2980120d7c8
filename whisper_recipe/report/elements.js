"use strict";
// Elements, tables and files. Texts reach the page as text nodes only, so nothing in them can become markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

const MORE_ROWS = 100; // rows that a table adds at a time

/** Return a new element; `on...` attributes are listeners, true and false say whether an attribute is there. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(2));
const seconds = (value) => (value === null || value === undefined ? "" : `${value.toFixed(1)} s`);
const plural = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;

/** Return a name of parts, `lora_int8`, as texts with places where a line may break; page.py does the same. */
const breakable = (name) => name.split(/([_/=-])/).flatMap((part, index) => (index % 2 ? [part, el("wbr")] : part));

/** Compare numbers as numbers and texts as texts; what is missing comes last in either direction. */
function compare(first, second, down) {
  if (first === second) return 0; // two infinite rates among them
  const missing = (value) => value === null || value === undefined || Number.isNaN(value);
  if (missing(first) || missing(second)) return missing(first) - missing(second);
  const order = first < second ? -1 : first > second ? 1 : 0;
  return down ? -order : order;
}

/**
 * Return a table that sorts by any of its columns.
 *
 * columns: {name, value: row -> what is sorted by, cell: row -> what is shown (the value by default), number, minor}.
 * A minor column is left out on a narrow screen. More rows than `limit` are shown on demand.
 */
function sortedTable(label, columns, rows, { limit = 15, by = null, down = true } = {}) {
  let shown = limit;
  const order = { by, down };
  const body = el("tbody");
  const more = el("button", {
    type: "button",
    class: "more",
    onclick: () => {
      shown += MORE_ROWS;
      fill();
    },
  });
  const headers = columns.map((column, index) => {
    const sort = () => {
      order.down = order.by === index ? !order.down : Boolean(column.number);
      order.by = index;
      fill();
    };
    return el(
      "th",
      { scope: "col", class: classes(column) },
      el("button", { type: "button", onclick: sort }, ...breakable(column.name)),
    );
  });
  function classes(column) {
    return [column.number && "number", column.minor && "minor", column.kind].filter(Boolean).join(" ") || null;
  }
  function fill() {
    headers.forEach((header, index) => {
      if (index === order.by) header.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
    });
    const sorted =
      order.by === null
        ? rows
        : rows.toSorted((one, other) =>
            compare(columns[order.by].value(one), columns[order.by].value(other), order.down),
          );
    body.replaceChildren(
      ...sorted
        .slice(0, shown)
        .map((row) =>
          el(
            "tr",
            {},
            ...columns.map((column, index) =>
              el(
                index ? "td" : "th",
                { class: classes(column), scope: index ? null : "row" },
                column.cell ? column.cell(row) : String(column.value(row) ?? "–"),
              ),
            ),
          ),
        ),
    );
    more.hidden = shown >= rows.length;
    const hidden = rows.length - shown;
    more.textContent = `Show ${hidden > MORE_ROWS ? `${MORE_ROWS} more of ${hidden.toLocaleString("en")}` : `${hidden} more`}`;
  }
  fill();
  return el(
    "div",
    { class: "table" },
    el(
      "div",
      { class: "wide", tabindex: 0, role: "region", "aria-label": label },
      el("table", {}, el("thead", {}, el("tr", {}, ...headers)), body),
    ),
    more,
  );
}

/** Let the browser save a text as a file. */
function saveFile(name, text) {
  const link = el("a", { download: name, href: URL.createObjectURL(new Blob([text], { type: "text/plain" })) });
  link.click();
  URL.revokeObjectURL(link.href);
}
