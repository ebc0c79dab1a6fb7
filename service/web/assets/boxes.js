// Boxes drawn on a picture. The browser cuts them out, so that other people in the frame are not
// sent.

import { h, pictureOf, showForm } from "./elements.js";

const STEP = 0.01;
const LEAST = 0.02;
const FIRST = { x: 0.4, y: 0.2, width: 0.2, height: 0.6 };
const BY_KEY = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};
const within = (value, least, most) => Math.max(least, Math.min(most, value));

// A picture at least as wide as high probably shows more than one standing person.
export async function isFrame(blob) {
  const image = await createImageBitmap(blob).catch(() => null);
  return image !== null && image.width >= image.height;
}

// Resolve to an image file for each box, or null. With `whole` the picture itself can be chosen.
export function askForBoxes(
  blob,
  { whole = false, action = "Search", each = "each box is a search of its own" } = {},
) {
  const boxes = [];
  const image = pictureOf(blob, "The picture");
  const stage = h("div", { class: "stage" }, image);
  const add = (box) => {
    boxes.push(box);
    draw();
    stage.lastChild.focus();
  };
  const use = h("button", { class: "main", disabled: true }, action);

  function draw() {
    use.disabled = boxes.length === 0;
    use.textContent = boxes.length > 1 ? `${action} ${boxes.length} people` : action;
    stage.replaceChildren(
      image,
      ...boxes.map((box, at) => {
        const element = h(
          "button",
          {
            type: "button",
            class: "box",
            onkeydown: (event) => change(event, at, element),
            "aria-label": `Box ${at + 1}. Arrow keys move it, with Shift they change its size, Delete removes it.`,
          },
          at + 1,
        );
        return place(element, box);
      }),
    );
  }

  function change(event, at, element) {
    const box = boxes[at];
    const by = BY_KEY[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      boxes.splice(at, 1);
      draw();
      (stage.querySelector(".box") ?? more).focus();
    } else if (by && event.shiftKey) {
      box.width = within(box.width + by[0], LEAST, 1 - box.x);
      box.height = within(box.height + by[1], LEAST, 1 - box.y);
    } else if (by) {
      box.x = within(box.x + by[0], 0, 1 - box.width);
      box.y = within(box.y + by[1], 0, 1 - box.height);
    } else return;
    event.preventDefault();
    place(element, box);
  }

  // Dragging draws a box. A very small box counts as a click.
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest(".box")) return;
    event.preventDefault();
    const area = stage.getBoundingClientRect();
    const at = ({ clientX, clientY }) => [
      within((clientX - area.x) / area.width, 0, 1),
      within((clientY - area.y) / area.height, 0, 1),
    ];
    const [x, y] = at(event);
    const box = { x, y, width: 0, height: 0 };
    const shown = stage.appendChild(place(h("span", { class: "box" }), box));
    stage.setPointerCapture(event.pointerId);
    stage.onpointermove = (moved) => {
      const [toX, toY] = at(moved);
      Object.assign(box, {
        x: Math.min(x, toX),
        y: Math.min(y, toY),
        width: Math.abs(toX - x),
        height: Math.abs(toY - y),
      });
      place(shown, box);
    };
    stage.onpointerup = stage.onpointercancel = () => {
      stage.onpointermove = stage.onpointerup = stage.onpointercancel = null;
      shown.remove();
      if (box.width >= LEAST && box.height >= LEAST) add(box);
    };
  });

  const more = h("button", { type: "button", onclick: () => add({ ...FIRST }) }, "Add a box");
  return new Promise((resolve) => {
    const chosen = {
      yes: () => Promise.all(boxes.map((box) => cut(image, box))),
      whole: () => [blob],
    };
    const dialog = showForm(
      { class: "question frame-of", "aria-label": "Draw boxes" },
      async (answer) => resolve((await chosen[answer]?.()) ?? null),
      h("h2", {}, "Draw a box around each person"),
      h("p", {}, `Draw from the head to the feet. Only what is in a box is sent; ${each}.`),
      stage,
      h(
        "div",
        { class: "row end" },
        more,
        whole &&
          h(
            "button",
            { type: "button", class: "quiet", onclick: () => dialog.close("whole") },
            "Search the whole picture",
          ),
        h("span", { class: "grow" }),
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
        use,
      ),
    );
    more.focus();
  });
}

function place(element, { x, y, width, height }) {
  Object.assign(element.style, {
    left: `${100 * x}%`,
    top: `${100 * y}%`,
    width: `${100 * width}%`,
    height: `${100 * height}%`,
  });
  return element;
}

function cut(image, { x, y, width, height }) {
  const { naturalWidth: wide, naturalHeight: high } = image;
  const canvas = h("canvas", {
    width: Math.max(1, Math.round(width * wide)),
    height: Math.max(1, Math.round(height * high)),
  });
  canvas
    .getContext("2d")
    .drawImage(
      image,
      x * wide,
      y * high,
      width * wide,
      height * high,
      0,
      0,
      canvas.width,
      canvas.height,
    );
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
