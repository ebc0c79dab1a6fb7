// Webhooks: addresses that alerts are sent to, and messages that did not arrive.

import { showOnce } from "./access.js";
import { ask, formOf, send } from "./api.js";
import { ago, attempt, find, h, moment, onSubmit, question, sentence } from "./elements.js";
import { gallery } from "./place.js";
import { t, textNodes } from "./texts.js";

const DEAD = 20;
const pathOf = ({ webhook_id: id }, rest = "") => `/v1/webhooks/${id}${rest}`;
const place = () => find("#webhooks");
let refusal = "";

export function startWebhooks() {
  onSubmit(find("#new-webhook"), (form) =>
    attempt(form, async () => {
      const here = form.elements.here.checked;
      const made = await ask("/v1/webhooks", {
        method: "POST",
        body: formOf([
          ["url", form.elements.url.value],
          ["note", form.elements.note.value],
          ["gallery", here ? gallery() : ""],
        ]),
      });
      form.reset();
      showSecret(made);
      await showWebhooks(refusal);
    }),
  );
}

// Resolve to whether the key may manage webhooks; show `why` if it may not.
export async function showWebhooks(why) {
  refusal = why;
  const hooks = await attempt(place(), () =>
    ask("/v1/webhooks").then(
      (answer) => answer.results,
      (error) => {
        if (error.status !== 403) throw error;
      },
    ),
  );
  find("#webhooks-why").textContent = why;
  find("#webhooks-why").hidden = hooks !== undefined;
  find("#webhooks-made").hidden = hooks === undefined;
  if (!hooks) return false;
  const latest = await attempt(place(), () => Promise.all(hooks.map(latestDelivery)));
  if (!latest) return true;
  find("#webhooks-made > ul").replaceChildren(
    ...(hooks.length > 0
      ? hooks.map((hook, number) => row(hook, latest[number]))
      : [h("li", { class: "hint" }, t("webhooks.none"))]),
  );
  const dead = hooks.reduce((sum, hook) => sum + hook.dead, 0);
  find("#webhooks summary").textContent =
    dead > 0 ? t("webhooks.dead", { number: dead }) : t("webhooks");
  await showDead(latest.some(Boolean));
  return true;
}

// Return the newest message to a webhook, or undefined.
async function latestDelivery({ webhook_id: id }) {
  const asked = new URLSearchParams({ webhook_id: id, limit: 1 });
  return (await ask(`/v1/webhooks/deliveries?${asked}`)).results[0];
}

// Run an action, show its outcome and read everything again.
const change = (action, outcome) =>
  attempt(find("#webhooks-made"), async () => {
    find("#webhooks-said").textContent = "";
    const said = await action();
    await showWebhooks(refusal);
    find("#webhooks-said").textContent = outcome ?? said;
  });

function row(hook, latest) {
  const about = [
    !hook.enabled && t("webhooks.stopped", { why: hook.why }),
    hook.enabled && !latest && t("webhooks.nothing_sent"),
    latest && textNodes("webhooks.last_alert", { time: ago(latest.created_at) }),
    hook.gallery ? t("webhooks.of_list", { gallery: hook.gallery }) : t("webhooks.every_list"),
    hook.waiting > 0 && t("webhooks.waiting", { count: hook.waiting }),
    hook.dead > 0 && t("webhooks.dead_count", { count: hook.dead }),
    hook.dropped > 0 && t("webhooks.dropped", { count: hook.dropped }),
  ]
    .filter(Boolean)
    .flatMap((part, number) => (number > 0 ? [" · ", part] : [part]));
  const button = (label, action, kind = "") =>
    h(
      "button",
      {
        type: "button",
        class: kind,
        "aria-label": `${label} ${hook.note || hook.url}`,
        onclick: action,
      },
      label,
    );
  const enable = () => {
    const body = new FormData();
    body.append("enabled", String(!hook.enabled));
    return ask(pathOf(hook), { method: "PATCH", body });
  };
  return h(
    "li",
    {},
    h(
      "div",
      { class: "grow" },
      h("b", { class: "name" }, hook.note || hook.url),
      hook.note && h("p", { class: "hint name" }, hook.url),
      h("p", { class: "hint name" }, about.flat()),
    ),
    h(
      "div",
      { class: "row" },
      button(t("webhooks.test"), () => test(hook)),
      button(t("webhooks.rotate"), () => rotate(hook)),
      button(t(hook.enabled ? "stop" : "webhooks.go_on"), () => change(enable, "")),
      button(t("delete.more"), () => remove(hook), "danger quiet"),
    ),
  );
}

const test = (hook) =>
  change(async () => {
    const { delivered, status, error } = await ask(pathOf(hook, "/test"), { method: "POST" });
    const name = hook.note || hook.url;
    if (delivered) return t("webhooks.test_arrived", { name, status });
    throw new Error(
      error
        ? t("webhooks.test_failed", { name, why: error })
        : t("webhooks.test_answered", { name, status }),
    );
  });

async function rotate(hook) {
  if (await question(t("webhooks.rotate.ask"), t("webhooks.rotate.about"), t("webhooks.make")))
    await change(
      async () => showSecret(await ask(pathOf(hook, "/rotate"), { method: "POST" })),
      "",
    );
}

async function remove(hook) {
  if (
    await question(
      t("webhooks.delete.ask", { name: hook.note || hook.url }),
      t("webhooks.delete.about"),
      t("delete"),
      { danger: true },
    )
  )
    await change(() => send(pathOf(hook), { method: "DELETE" }), t("webhooks.deleted"));
}

const showSecret = ({ url, secret }) =>
  showOnce(t("webhooks.secret"), t("webhooks.secret_of"), t("webhooks.secret"), secret, [
    t("webhooks.secret_use", { url }),
  ]);

async function showDead(hasSent, cursor = null) {
  const asked = new URLSearchParams(
    formOf([
      ["state", "dead"],
      ["limit", DEAD],
      ["cursor", cursor],
    ]),
  );
  await attempt(find("#webhooks-made"), async () => {
    const page = await ask(`/v1/webhooks/deliveries?${asked}`);
    const rows = page.results.map(deadRow);
    const more =
      page.next_cursor &&
      h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            onclick: ({ target }) => {
              target.parentElement.remove();
              showDead(hasSent, page.next_cursor);
            },
          },
          t("show_older"),
        ),
      );
    if (cursor === null)
      find("#dead").replaceChildren(
        ...(rows.length > 0
          ? rows
          : [
              h(
                "li",
                { class: "hint" },
                t(hasSent ? "webhooks.all_delivered" : "webhooks.none_sent"),
              ),
            ]),
      );
    else find("#dead").append(...rows);
    if (more) find("#dead").append(more);
  });
}

function deadRow(delivery) {
  const why =
    delivery.error ??
    (delivery.status === null
      ? t("webhooks.no_answer")
      : t("webhooks.answered", { status: delivery.status }));
  const retry = () =>
    change(
      () => ask(`/v1/webhooks/deliveries/${delivery.delivery_id}/retry`, { method: "POST" }),
      t("webhooks.sent_again"),
    );
  return h(
    "li",
    {},
    h(
      "div",
      { class: "grow" },
      moment(delivery.created_at),
      h(
        "p",
        { class: "hint name" },
        `${delivery.sent_to ?? t("webhooks.not_sent")} · ${t("webhooks.tries", { count: delivery.attempts })} · ${sentence(why)}`,
      ),
    ),
    delivery.webhook_id !== null &&
      h("button", { type: "button", onclick: retry }, t("webhooks.again")),
  );
}
