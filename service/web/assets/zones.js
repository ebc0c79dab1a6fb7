// The dialog that draws the zones of a camera on a still, for which its program is asked.

import { blobOf, formOf, send } from "./api.js";
import { attempt, h, pictureOf, showForm } from "./elements.js";
import { t } from "./texts.js";

// Limits of the service.
const MOST_ZONES = 16;
const MOST_CORNERS = 64;
const FEWEST_CORNERS = 3;
const LONGEST_NAME = 64;
const LOWER_HALF = "0,0.5 1,0.5 1,1 0,1";
const STEP = 0.01;
const BY_KEY = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};
const LOOK_EVERY_MS = 1000;
// A program sends a heartbeat every 30 seconds, and a still after it.
const LONGEST_WAIT_MS = 60_000;

// A zone is a text: its corners X,Y in shares of the picture, with spaces between them, and before
// them its name with a colon, if it has one.
function read(text) {
  const colon = text.lastIndexOf(":");
  const corners = text
    .slice(colon + 1)
    .trim()
    .split(/\s+/);
  return {
    name: text.slice(0, Math.max(colon, 0)),
    corners: corners.map((corner) => corner.split(",").map(Number)),
  };
}

function written({ name, corners }) {
  const shares = corners.map((corner) => corner.map((share) => Number(share.toFixed(3))).join(","));
  return `${name.trim() && `${name.trim()}: `}${shares.join(" ")}`;
}

const within = (share) => Math.max(0, Math.min(1, share));
const between = ([x, y], [otherX, otherY]) => [(x + otherX) / 2, (y + otherY) / 2];

// Show the dialog. `saved` is called once the zones are stored.
export function showZones({ camera, key_id: keyId, zones: stored }, saved) {
  const path = `/v1/cameras/${camera.split("/").map(encodeURIComponent).join("/")}`;
  const zones = stored.map(read);
  const title = t("zones.title", { camera });
  const said = h("p", { role: "status" });
  const still = h("div", { class: "still" });
  const shapes = h("div");
  const list = h("ul", { class: "rows", "aria-label": t("zones") });
  const add = h("button", { type: "button", onclick: addZone }, t("zones.add"));
  const again = h(
    "button",
    { type: "button", onclick: () => attempt(place, askForStill) },
    t("zones.again"),
  );
  const place = h(
    "div",
    {},
    said,
    h("div", { class: "stage zoned" }, still, shapes),
    list,
    h(
      "div",
      { class: "row end" },
      add,
      again,
      h("span", { class: "grow" }),
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
      h(
        "button",
        { type: "button", class: "main", onclick: () => attempt(place, save) },
        t("save"),
      ),
    ),
  );
  draw();
  const dialog = showForm(
    { class: "question frame-of", "aria-label": title },
    () => undefined,
    h("h2", { class: "name" }, title),
    h("p", {}, t("zones.hint")),
    place,
  );
  add.focus();
  attempt(place, async () => {
    if (!(await showStill())) await askForStill();
  });

  // Show the still that the service holds, and return whether there is one. While it is waited for,
  // the answer is empty.
  async function showStill() {
    try {
      const blob = await blobOf(`${path}/still?${new URLSearchParams({ key_id: keyId })}`);
      if (blob.size > 0) still.replaceChildren(pictureOf(blob, t("zones.still", { camera })));
      return blob.size > 0;
    } catch (error) {
      if (error.status !== 404) throw error;
      return false;
    }
  }

  async function askForStill() {
    again.disabled = true;
    try {
      await send(`${path}/still`, { method: "POST", body: formOf([["key_id", keyId]]) });
      said.textContent = t("zones.waiting");
      const until = Date.now() + LONGEST_WAIT_MS;
      while (dialog.open && !(await showStill())) {
        if (Date.now() > until) {
          said.textContent = t("zones.no_still");
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
      }
      said.textContent = "";
    } finally {
      again.disabled = false;
    }
  }

  async function save() {
    const body = formOf([["key_id", keyId], ...zones.map((zone) => ["zones", written(zone)])]);
    await send(`${path}/zones`, { method: "PUT", body });
    dialog.close();
    saved();
  }

  function addZone() {
    zones.push(read(LOWER_HALF));
    draw();
    cornersShown(zones.length - 1)[0].focus();
  }

  function removeZone(number) {
    zones.splice(number, 1);
    draw();
    add.focus();
  }

  const cornersShown = (number) => shapes.children[number].querySelectorAll(".corner");

  function draw() {
    add.disabled = zones.length >= MOST_ZONES;
    shapes.replaceChildren(...zones.map(shapeOf));
    list.replaceChildren(
      ...zones.map((zone, number) =>
        h(
          "li",
          {},
          h("b", {}, t("zones.number", { number: number + 1 })),
          h("input", {
            class: "grow",
            value: zone.name,
            maxlength: LONGEST_NAME,
            placeholder: t("zones.name"),
            "aria-label": t("zones.name_of", { number: number + 1 }),
            oninput: ({ target }) => (zone.name = target.value),
          }),
          h(
            "button",
            {
              type: "button",
              "aria-label": t("zones.remove_number", { number: number + 1 }),
              onclick: () => removeZone(number),
            },
            t("zones.remove"),
          ),
        ),
      ),
    );
  }

  // Return the polygon of a zone, its corners, and between them the buttons that add a corner.
  function shapeOf({ corners }, number) {
    const area = h("span", { class: "zone" });
    const handles = corners.map((corner, at) => cornerOf(number, corner, at, arrange));
    const adders = corners.map((_, at) =>
      h(
        "button",
        {
          type: "button",
          class: "between",
          "aria-label": t("zones.add_corner", { number: number + 1, corner: at + 1 }),
          hidden: corners.length >= MOST_CORNERS,
          onclick: () => {
            corners.splice(at + 1, 0, between(corners[at], corners[(at + 1) % corners.length]));
            draw();
            cornersShown(number)[at + 1].focus();
          },
        },
        "+",
      ),
    );

    function arrange() {
      const points = corners.map(([x, y]) => `${100 * x}% ${100 * y}%`);
      area.style.clipPath = `polygon(${points.join(", ")})`;
      corners.forEach((corner, at) => {
        put(handles[at], corner);
        put(adders[at], between(corner, corners[(at + 1) % corners.length]));
      });
    }

    arrange();
    return h("div", {}, area, adders, handles);
  }

  function cornerOf(number, corner, at, arrange) {
    const { corners } = zones[number];
    const handle = h(
      "button",
      {
        type: "button",
        class: "corner",
        "aria-label": t("zones.corner", { number: number + 1, corner: at + 1 }),
        onkeydown: (event) => {
          const by = BY_KEY[event.key];
          if (by) move(corner[0] + by[0], corner[1] + by[1]);
          else if (event.key === "Delete" && corners.length > FEWEST_CORNERS) {
            corners.splice(at, 1);
            draw();
            cornersShown(number)[at % corners.length].focus();
          } else return;
          event.preventDefault();
        },
        onpointerdown: (event) => handle.setPointerCapture(event.pointerId),
        onpointermove: (event) => {
          if (!handle.hasPointerCapture(event.pointerId)) return;
          const area = still.getBoundingClientRect();
          move((event.clientX - area.x) / area.width, (event.clientY - area.y) / area.height);
        },
      },
      number + 1,
    );

    function move(x, y) {
      corner[0] = within(x);
      corner[1] = within(y);
      arrange();
    }

    return handle;
  }
}

function put(element, [x, y]) {
  element.style.left = `${100 * x}%`;
  element.style.top = `${100 * y}%`;
}
