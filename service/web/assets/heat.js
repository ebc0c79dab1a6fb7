// Two images side by side, with the contribution of each region to their score.

import { ask, formOf } from "./api.js";
import { decimal, h, percent, pictureOf, verdictChip } from "./elements.js";

// Below this share of the strongest contribution a cell shows no sign.
const FAINT = 0.12;

// The verdict is that of the search with the result `ranked`; a pair alone would have another.
export async function compare(mine, other, ranked, scoring, gallery) {
  const body = formOf([["images", mine], ["images", other], ["scoring", scoring], ["gallery", gallery], ["explain", "true"]]);
  const pair = await ask("/v1/pairs", { method: "POST", body });
  const { grid, first, second } = pair.explanation;
  const most = Math.max(...first.flat(), ...second.flat().map(Math.abs), ...first.flat().map(Math.abs), 1e-9);
  const figures = [["Query", mine, first], ["In the gallery", other, second]].map(([label, blob, values]) =>
    h("figure", {}, h("div", { class: "heat" }, pictureOf(blob, ""), cells(label, grid, values, most)),
      h("figcaption", {}, label)));
  return [
    h("p", { class: "row" }, verdictChip(ranked.verdict),
      h("span", {}, ranked.verdict === null ? "beyond the search’s rerank depth" : `${percent(ranked.probability)} in this search`),
      h("span", {}, `these two images: cosine ${decimal(pair.cosine, 3)}`), pair.logit !== undefined && h("span", {}, `logit ${decimal(pair.logit, 2)}`)),
    h("div", { class: "heats" }, figures),
    h("p", { class: "legend" }, h("span", { class: "for" }, "+"), " supports one person ",
      h("span", { class: "against" }, "−"), " supports two people. The stronger the colour, the more the score changes when the region is hidden."),
  ];
}

function cells(label, [rows, columns], values, most) {
  const strongest = [];
  const drawn = values.flatMap((row, y) => row.map((value, x) => {
    const strength = Math.abs(value) / most;
    if (strength >= 0.5) strongest.push(`row ${y + 1} column ${x + 1} ${value > 0 ? "for" : "against"}`);
    const cell = h("span", { class: value > 0 ? "for" : "against", title: decimal(value, 3) },
      strength < FAINT ? "" : value > 0 ? "+" : "−");
    cell.style.setProperty("--strength", strength.toFixed(3));
    return cell;
  }));
  const description = `${label}, ${rows} rows of ${columns} regions. Strongest: ${strongest.join(", ") || "none"}.`;
  const map = h("div", { class: "cells", role: "img", "aria-label": description }, drawn);
  map.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  return map;
}
