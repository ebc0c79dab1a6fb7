// The contribution of each region of two images to their score.

import { ask, formOf } from "./api.js";
import { decimal, h } from "./elements.js";
import { t, textNodes } from "./texts.js";

// A cell below this share of the strongest contribution shows no sign.
const FAINT = 0.12;

// Return two grids of cells to lay over the pictures, and the legend of their signs.
export async function regions(shown, other, scoring, gallery) {
  const body = formOf([
    ["images", shown],
    ["images", other],
    ["scoring", scoring],
    ["gallery", gallery],
    ["explain", "true"],
  ]);
  const { grid, first, second } = (await ask("/v1/pairs", { method: "POST", body })).explanation;
  const most = Math.max(...[...first, ...second].flat().map(Math.abs), 1e-9);
  return {
    grids: [
      [t("pair.query"), first],
      [t("pair.gallery"), second],
    ].map(([label, values]) => cells(label, grid, values, most)),
    legend: h(
      "p",
      { class: "legend" },
      textNodes("heat.legend", {
        plus: h("span", { class: "for" }, "+"),
        minus: h("span", { class: "against" }, "−"),
      }),
    ),
  };
}

function cells(label, [rows, columns], values, most) {
  const strongest = [];
  const drawn = values.flatMap((row, y) =>
    row.map((value, x) => {
      const strength = Math.abs(value) / most;
      if (strength >= 0.5)
        strongest.push(t(value > 0 ? "heat.for" : "heat.against", { row: y + 1, column: x + 1 }));
      const cell = h(
        "span",
        { class: value > 0 ? "for" : "against", title: decimal(value, 3) },
        strength < FAINT ? "" : value > 0 ? "+" : "−",
      );
      cell.style.setProperty("--strength", strength.toFixed(3));
      return cell;
    }),
  );
  const description = t(strongest.length > 0 ? "heat.described" : "heat.none", {
    label,
    rows,
    columns,
    strongest: strongest.join(", "),
  });
  const map = h("div", { class: "cells", role: "img", "aria-label": description }, drawn);
  map.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  return map;
}
