// Shortcuts: a key presses the control that names it in `data-key`, in the sheet or at the result
// with the focus.

import { find, h } from "./elements.js";
import { addressOf, gallery, panel } from "./place.js";
import { t } from "./texts.js";

const KEYS = [
  ["/", t("keys.search")],
  ["?", t("keys.list")],
  ["← → ↑ ↓", t("keys.move")],
  [t("keys.key.enter"), t("keys.open")],
  ["C", t("keys.confirm")],
  ["R", t("keys.reject")],
  ["X", t("keys.mark")],
  ["N", t("keys.name")],
  ["← →", t("keys.around")],
  ["+ − 0", t("keys.zoom")],
  ["G", t("keys.regions")],
  ["1–9", t("keys.number")],
  [t("keys.key.escape"), t("close")],
];

// Panels with results or alerts that keys act on.
const CARDS = { search: "#answer .card", watch: "#alerts .card:has(.open)" };

// Set if letters and signs are no shortcuts, because speech input may type them.
const OFF = "gmn-letters-off";

// The card that had the focus last, by a selector. A page that reads itself again replaces its cards.
let last = null;

export const areSignsOff = () => localStorage.getItem(OFF) !== null;

export function startKeys() {
  document.addEventListener("keydown", press);
  document.addEventListener("focusin", ({ target }) => {
    const card = target.closest(Object.values(CARDS).join());
    last = card && selectorOf(card);
  });
  find("#shortcuts").addEventListener("click", showKeys);
}

function press(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || typing(target)) return;
  if (key.length === 1 && areSignsOff()) return;
  const dialog = [...document.querySelectorAll("dialog[open]")].at(-1);
  if (dialog && dialog.id !== "sheet") return;
  const result = target.closest(Object.values(CARDS).join()) ?? refocused(target);
  const done = dialog
    ? control(dialog, key)
    : (result && control(result, key)) || control(find("main"), key) || elsewhere(key, result);
  if (!done) return;
  event.preventDefault();
  if (done === true) return;
  // A decision goes on with the next result, which a key that is held down would decide on too.
  if (event.repeat && "cr".includes(done.dataset.key)) return;
  done.click();
}

function selectorOf(card) {
  const { alert, crop } = card.dataset;
  return alert ? `#alerts > [data-alert="${alert}"]` : `#answer [data-crop="${crop}"]`;
}

// Return the card that stands in place of the one that had the focus before it was replaced.
function refocused(target) {
  const card = target === document.body && last !== null && find(last);
  if (!card || !card.checkVisibility()) return null;
  card.querySelector(".open").focus();
  return card;
}

const typing = (target) =>
  target.matches("select, textarea, input:not([type=checkbox], [type=file])");

// Keys of a result or an alert need the focus on its card.
function control(place, key) {
  const wanted = key === "=" ? "+" : key.length === 1 ? key.toLowerCase() : key;
  return [...place.querySelectorAll("[data-key]")].find(
    (button) =>
      button.dataset.key === wanted &&
      !button.disabled &&
      button.checkVisibility() &&
      (place.matches("#sheet, .card") || !button.closest(".card")),
  );
}

function elsewhere(key, result) {
  if (key === "?") return showKeys();
  if (key === "/") {
    if (panel() !== "search") location.hash = addressOf(gallery(), "search");
    // The panel appears after the address has changed.
    setTimeout(() => find("#query .drop input").focus());
    return true;
  }
  if (key.toLowerCase() === "n" && panel() === "unnamed") return toNextGroup();
  return panel() in CARDS && step(key, result);
}

function toNextGroup() {
  const groups = [...document.querySelectorAll("#unnamed .group")];
  const next = groups[groups.indexOf(document.activeElement.closest(".group")) + 1];
  next?.focus();
  next?.scrollIntoView({ block: "start" });
  return next !== undefined;
}

// Keys that lead to the first result or alert, where none has the focus.
const FIRST = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
// Arrow keys do nothing at these elements. After a search the button Search still has the focus.
const FREE = "body, a, button, summary, [type=checkbox], [type=file]";

// Arrow keys follow the rows on the screen.
function step(key, result) {
  const cards = [...document.querySelectorAll(CARDS[panel()])];
  if (!cards.length) return false;
  if (!result) {
    if (!document.activeElement.matches(FREE) || !FIRST.includes(key)) return false;
    cards[0].querySelector(".open").focus();
    return true;
  }
  // Answers to several searches stand side by side, each with rows of its own.
  const own = cards.filter((card) => card.parentElement === result.parentElement);
  const columns = own.findIndex((card) => card.offsetTop > own[0].offsetTop);
  const row = columns < 0 ? 0 : columns;
  const [list, by] =
    {
      ArrowLeft: [cards, -1],
      ArrowRight: [cards, 1],
      ArrowUp: [own, -row],
      ArrowDown: [own, row],
    }[key] ?? [];
  if (!by) return false;
  const next = list[list.indexOf(result) + by];
  next?.querySelector(".open").focus();
  return next !== undefined;
}

function showKeys() {
  const letters = h("input", {
    type: "checkbox",
    checked: !areSignsOff(),
    onchange: () => {
      if (letters.checked) localStorage.removeItem(OFF);
      else localStorage.setItem(OFF, "yes");
    },
  });
  const dialog = h(
    "dialog",
    { class: "question", "aria-label": t("shortcuts"), onclose: () => dialog.remove() },
    h("h2", {}, t("shortcuts")),
    h(
      "dl",
      { class: "keys" },
      KEYS.flatMap(([key, does]) => [
        h(
          "dt",
          {},
          key.split(" ").map((letter) => h("kbd", {}, letter)),
        ),
        h("dd", {}, does),
      ]),
    ),
    h("label", { class: "check" }, letters, t("keys.letters")),
    h(
      "form",
      { method: "dialog", class: "row end" },
      h("button", { class: "main", autofocus: true }, t("close")),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return true;
}
