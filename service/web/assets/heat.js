// The contribution of each region of two images to their score.

import { ask, formOf } from "./api.js";
import { decimal, h } from "./elements.js";

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
      ["Query", first],
      ["In the gallery", second],
    ].map(([label, values]) => cells(label, grid, values, most)),
    legend: h(
      "p",
      { class: "legend" },
      h("span", { class: "for" }, "+"),
      " supports one person ",
      h("span", { class: "against" }, "−"),
      " supports two people. The stronger the colour, the more the score changes when the region is hidden.",
    ),
  };
}

function cells(label, [rows, columns], values, most) {
  const strongest = [];
  const drawn = values.flatMap((row, y) =>
    row.map((value, x) => {
      const strength = Math.abs(value) / most;
      if (strength >= 0.5)
        strongest.push(`row ${y + 1} column ${x + 1} ${value > 0 ? "for" : "against"}`);
      const cell = h(
        "span",
        { class: value > 0 ? "for" : "against", title: decimal(value, 3) },
        strength < FAINT ? "" : value > 0 ? "+" : "−",
      );
      cell.style.setProperty("--strength", strength.toFixed(3));
      return cell;
    }),
  );
  const description = `${label}, ${rows} rows of ${columns} regions. Strongest: ${strongest.join(", ") || "none"}.`;
  const map = h("div", { class: "cells", role: "img", "aria-label": description }, drawn);
  map.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  return map;
}
