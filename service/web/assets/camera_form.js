// The dialog that writes a camera's settings and the commands to copy. It sends nothing: addresses
// and passwords of cameras stay beside the cameras.

import { copying } from "./access.js";
import { hasKey } from "./api.js";
import { h, showForm } from "./elements.js";
import { t } from "./texts.js";

const FILE = "cameras.toml";
const KEY_FILE = "camera_key";
const BARE = /^[A-Za-z0-9_-]+$/;
const ADDRESS = /^([a-z]+:\/\/)(?:[^/@]*@)?(.*)$/i;

// `galleries` are those that may store what cameras see, as they delete their pictures.
export function showCameraForm(galleries) {
  const field = (label, name, attributes) =>
    h(
      "label",
      {},
      label,
      h("input", { name, autocomplete: "off", spellcheck: "false", ...attributes }),
    );
  const written = (label, rows) =>
    h("label", {}, label, h("textarea", { rows, readonly: true, spellcheck: "false" }));
  const settings = written(t("camera_form.settings", { file: FILE }), 4);
  const commands = written(t("camera_form.commands"), 3);
  const dialog = showForm(
    { class: "question camera-form", "aria-label": t("camera_form.title"), oninput: write },
    () => undefined,
    h("h2", {}, t("camera_form.title")),
    h("p", {}, t("camera_form.hint")),
    field(t("name"), "camera", { maxlength: 256, value: "gate" }),
    field(t("camera_form.address"), "address", {
      maxlength: 2048,
      placeholder: "rtsp://192.168.1.20/stream",
    }),
    h(
      "div",
      { class: "pair" },
      field(t("camera_form.user"), "user", { maxlength: 256 }),
      field(t("camera_form.password"), "password", {
        maxlength: 256,
        type: "password",
        autocomplete: "new-password",
      }),
    ),
    h(
      "label",
      {},
      t("camera_form.store"),
      h(
        "select",
        { name: "enroll" },
        h("option", { value: "" }, t("camera_form.store_nothing")),
        galleries.map((gallery) => h("option", {}, gallery)),
      ),
    ),
    settings,
    h("div", { class: "row" }, copying(settings.querySelector("textarea"))),
    commands,
    h("div", { class: "row" }, copying(commands.querySelector("textarea"))),
    h(
      "p",
      { class: "hint" },
      t(hasKey() ? "camera_form.key" : "trying.key_none", { file: KEY_FILE }),
    ),
    h("div", { class: "row end" }, h("button", { class: "main" }, t("close"))),
  );
  write();

  function write() {
    const { camera, address, user, password, enroll } = dialog.querySelector("form").elements;
    settings.querySelector("textarea").value = tableOf(
      camera.value,
      withUser(address.value.trim(), user.value, password.value),
      enroll.value,
    );
    commands.querySelector("textarea").value = [
      `chmod 600 ${FILE}`,
      `gmn camera run --config ${FILE} --url ${location.origin}${hasKey() ? ` --api-key-file ${KEY_FILE}` : ""}`,
    ].join("\n");
  }
}

// Return an address with user and password, in place of those that it may have.
function withUser(address, user, password) {
  const parts = ADDRESS.exec(address);
  if (!parts || !(user || password)) return address;
  const [, protocol, place] = parts;
  return `${protocol}${encodeURIComponent(user)}:${encodeURIComponent(password)}@${place}`;
}

// JSON writes texts as TOML reads them.
function tableOf(camera, address, gallery) {
  const name = BARE.test(camera) ? camera : JSON.stringify(camera);
  return [
    `[camera.${name}]`,
    `source = ${JSON.stringify(address)}`,
    gallery && `enroll = ${JSON.stringify(gallery)}`,
  ]
    .filter(Boolean)
    .join("\n");
}
