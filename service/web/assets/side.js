// Pictures side by side, with common zoom and position, so that the same parts are compared.

import { h, pictureOf } from "./elements.js";
import { t } from "./texts.js";

const MOST = 8;
const STEP = 1.5;
const MOVE = 0.1;

// `pictures` are pairs [label, promise of an image file].
export function sideBySide(pictures) {
  let zoom = 1;
  let x = 0;
  let y = 0;
  const panes = pictures.map(([label, file]) => {
    const pane = h("div", { class: "heat" });
    show(pane, file, label);
    return pane;
  });
  const draw = () => {
    const free = (zoom - 1) / 2;
    [x, y] = [x, y].map((at) => Math.max(-free, Math.min(free, at)));
    for (const pane of panes) {
      pane.style.transform = `translate(${100 * x}%, ${100 * y}%) scale(${zoom})`;
      pane.parentElement.classList.toggle("zoomed", zoom > 1);
    }
    out.disabled = whole.disabled = zoom === 1;
  };
  // Zoom around the point (px, py), in picture sizes from the centre.
  const magnify = (by, px = 0, py = 0) => {
    const next = Math.max(1, Math.min(MOST, zoom * by));
    [x, y] = [px - ((px - x) * next) / zoom, py - ((py - y) * next) / zoom];
    zoom = next;
    draw();
  };
  const move = (dx, dy) => {
    x += dx;
    y += dy;
    draw();
  };
  const button = (label, key, title, action) =>
    h(
      "button",
      {
        type: "button",
        "data-key": key,
        "aria-label": title,
        title: t("hint.key", { action: title, key }),
        onclick: action,
      },
      label,
    );
  const out = button("−", "-", t("side.zoom_out"), () => magnify(1 / STEP));
  const whole = button(t("side.whole"), "0", t("side.whole.hint"), () => magnify(1 / MOST));
  const figures = pictures.map(([label], at) => {
    const view = h(
      "div",
      {
        class: "view",
        tabindex: 0,
        role: "group",
        "aria-label": t("side.view", { label }),
      },
      panes[at],
    );
    const size = () => ({ width: panes[at].offsetWidth, height: panes[at].offsetHeight });
    view.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const box = view.getBoundingClientRect();
        const { width, height } = size();
        magnify(
          event.deltaY < 0 ? 1.15 : 1 / 1.15,
          (event.clientX - box.x - box.width / 2) / width,
          (event.clientY - box.y - box.height / 2) / height,
        );
      },
      { passive: false },
    );
    view.addEventListener("pointerdown", (event) => {
      if (zoom > 1) view.setPointerCapture(event.pointerId);
    });
    view.addEventListener("pointermove", (event) => {
      if (view.hasPointerCapture(event.pointerId))
        move(event.movementX / size().width, event.movementY / size().height);
    });
    view.addEventListener("dblclick", () => magnify(zoom > 1 ? 1 / MOST : 2.5));
    view.addEventListener("keydown", (event) => {
      const [dx, dy] = {
        ArrowLeft: [MOVE, 0],
        ArrowRight: [-MOVE, 0],
        ArrowUp: [0, MOVE],
        ArrowDown: [0, -MOVE],
      }[event.key] ?? [0, 0];
      if (zoom === 1 || dx === dy) return;
      event.preventDefault();
      event.stopPropagation();
      move(dx, dy);
    });
    return h("figure", {}, view, h("figcaption", {}, label));
  });
  const tools = h(
    "div",
    { class: "row zoom" },
    out,
    button("+", "+", t("side.zoom_in"), () => magnify(STEP)),
    whole,
  );
  draw();
  return { figures, panes, tools };
}

export function show(pane, file, label) {
  file.then(
    (blob) => {
      const image = pictureOf(blob, label);
      image.addEventListener("load", () =>
        pane.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight),
      );
      pane.prepend(image);
      image.nextSibling?.remove();
    },
    (error) =>
      pane.replaceChildren(
        h("span", { class: "missing", title: error.message }, t("picture.none")),
      ),
  );
}
