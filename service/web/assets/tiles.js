// Crops as tiles that can be chosen, with actions for the chosen ones.

import { openCrop } from "./crop.js";
import { h, nameOf, thumbnail, whereAndWhen } from "./elements.js";
import { LOCALE, t } from "./texts.js";

// `actions` are [label, action on the chosen ids, class]; `chosen` selects all tiles at first.
export function chooser(label, actions, { chosen = false } = {}) {
  const list = h("ol", { class: "cards small", "aria-label": label });
  const note = h("span", { class: "hint", role: "status" });
  const boxes = () => [...list.querySelectorAll("input")];
  const picked = () =>
    boxes()
      .filter((box) => box.checked)
      .map((box) => box.value);
  const all = h("button", {
    type: "button",
    class: "quiet",
    onclick: () => {
      const checked = picked().length < boxes().length;
      for (const box of boxes()) box.checked = checked;
      redraw();
    },
  });
  const buttons = actions.map(([words, action, kind = ""]) =>
    h("button", { type: "button", class: kind, onclick: () => action(picked()) }, words),
  );
  const redraw = () => {
    const number = picked().length;
    // A range begins with one picture.
    const key = number === 1 && boxes().length > 2 ? "tiles.chosen_range" : "tiles.chosen";
    note.textContent = number > 0 ? t(key, { count: number }) : "";
    all.textContent = t(number > 0 && number === boxes().length ? "tiles.none" : "tiles.all");
    for (const button of buttons) button.disabled = number === 0;
  };
  let last = null;
  list.addEventListener("click", ({ target, shiftKey }) => {
    if (target.type !== "checkbox") return;
    const [from, to] = [boxes().indexOf(last), boxes().indexOf(target)].sort(
      (first, second) => first - second,
    );
    if (shiftKey && from >= 0)
      for (const box of boxes().slice(from, to + 1)) box.checked = target.checked;
    last = target;
    redraw();
  });
  redraw();
  return {
    chosen: picked,
    element: h("div", {}, h("div", { class: "row choice" }, all, note, buttons), list),
    add(crops) {
      list.append(...crops.map((crop) => tile(crop, chosen)));
      redraw();
    },
    remove(cropIds) {
      for (const box of boxes()) if (cropIds.includes(box.value)) box.closest("li").remove();
      redraw();
    },
  };
}

function tile(crop, checked) {
  const name = nameOf(crop.identity);
  const time = crop.captured_at && new Date(crop.captured_at).toLocaleString(LOCALE);
  const lines = [
    ...whereAndWhen(crop),
    crop.set_aside && h("span", { class: "note" }, t("tiles.aside")),
  ].filter(Boolean);
  return h(
    "li",
    { class: "tile" },
    h("input", {
      type: "checkbox",
      value: crop.crop_id,
      checked,
      "aria-label": t("tiles.choose", {
        name: [name, crop.camera, time].filter(Boolean).join(", "),
      }),
    }),
    h(
      "button",
      { type: "button", class: "card", onclick: () => openCrop(crop.crop_id) },
      thumbnail(crop.image_url, t("picture.of", { name })),
      lines.length > 0 && h("span", { class: "about" }, lines),
    ),
  );
}
