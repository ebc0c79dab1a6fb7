// Crops as tiles that can be chosen, and the actions for those that are.

import { openCrop } from "./crop.js";
import { count, h, moment, nameOf, thumbnail } from "./elements.js";

// `actions` has [label, action of the chosen ids, class]; `chosen`: whether each is chosen at first.
export function chooser(label, actions, { chosen = false } = {}) {
  const list = h("ol", { class: "cards small", "aria-label": label });
  const note = h("span", { class: "hint", role: "status" });
  const boxes = () => [...list.querySelectorAll("input")];
  const picked = () => boxes().filter((box) => box.checked).map((box) => box.value);
  const all = h("button", { type: "button", class: "quiet", onclick: () => {
    const checked = picked().length < boxes().length;
    for (const box of boxes()) box.checked = checked;
    redraw();
  } });
  const buttons = actions.map(([words, action, kind = ""]) => h("button", { type: "button", class: kind, onclick: () => action(picked()) }, words));
  const redraw = () => {
    const number = picked().length;
    note.textContent = number > 0 ? `${count(number, "picture")} chosen. Shift chooses a range.` : "";
    all.textContent = number > 0 && number === boxes().length ? "Choose none" : "Choose all";
    for (const button of buttons) button.disabled = number === 0;
  };
  let last = null;
  list.addEventListener("click", ({ target, shiftKey }) => {
    if (target.type !== "checkbox") return;
    const [from, to] = [boxes().indexOf(last), boxes().indexOf(target)].sort((one, other) => one - other);
    if (shiftKey && from >= 0) for (const box of boxes().slice(from, to + 1)) box.checked = target.checked;
    last = target;
    redraw();
  });
  redraw();
  return {
    chosen: picked, element: h("div", {}, h("div", { class: "row choice" }, all, note, buttons), list),
    add(crops) { list.append(...crops.map((one) => tile(one, chosen))); redraw(); },
    remove(cropIds) { for (const box of boxes()) if (cropIds.includes(box.value)) box.closest("li").remove(); redraw(); },
    has: (cropId) => boxes().find((box) => box.value === cropId),
  };
}

function tile(one, checked) {
  const about = `${nameOf(one.identity)}, ${one.camera ?? "camera unknown"}, ${one.captured_at ? new Date(one.captured_at).toLocaleString() : "time unknown"}`;
  return h("li", { class: "tile" }, h("input", { type: "checkbox", value: one.crop_id, checked, "aria-label": `Choose the picture of ${about}` }),
    h("button", { type: "button", class: "card", onclick: () => openCrop(one.crop_id) }, thumbnail(one.image_url, `Picture of ${nameOf(one.identity)}`),
      h("span", { class: "about" }, h("span", { class: "name" }, one.camera ?? "camera unknown"), h("span", {}, moment(one.captured_at)))));
}
