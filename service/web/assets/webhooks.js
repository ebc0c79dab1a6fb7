// Webhooks: addresses that alerts are sent to, and messages that did not arrive.

import { showOnce } from "./access.js";
import { ask, formOf, send } from "./api.js";
import { ago, attempt, count, find, h, moment, onSubmit, question, sentence } from "./elements.js";
import { gallery } from "./place.js";

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
      : [h("li", { class: "hint" }, "None yet.")]),
  );
  const dead = hooks.reduce((sum, hook) => sum + hook.dead, 0);
  find("#webhooks summary").textContent =
    dead > 0 ? `Messages to other systems (${dead} not delivered)` : "Messages to other systems";
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
    !hook.enabled && `Stopped: ${hook.why}`,
    hook.enabled && !latest && "Nothing was sent yet",
    latest && ["Last alert ", ago(latest.created_at)],
    hook.gallery ? `list ${hook.gallery}` : "every list",
    hook.waiting > 0 && `${hook.waiting} waiting`,
    hook.dead > 0 && `${hook.dead} not delivered`,
    hook.dropped > 0 && `${hook.dropped} not sent, as too many waited`,
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
      button("Test", () => test(hook)),
      button("New secret…", () => rotate(hook)),
      button(hook.enabled ? "Stop" : "Go on", () => change(enable, "")),
      button("Delete…", () => remove(hook), "danger quiet"),
    ),
  );
}

const test = (hook) =>
  change(async () => {
    const { delivered, status, error } = await ask(pathOf(hook, "/test"), { method: "POST" });
    if (!delivered)
      throw new Error(
        `The test did not arrive at ${hook.note || hook.url}: ${error ?? `it answered ${status}`}`,
      );
    return `The test arrived: ${hook.note || hook.url} answered ${status}.`;
  });

async function rotate(hook) {
  if (
    await question(
      "Make a new secret?",
      "The present one goes on to sign for a day, so that the receiver can be changed meanwhile.",
      "Make it",
    )
  )
    await change(
      async () => showSecret(await ask(pathOf(hook, "/rotate"), { method: "POST" })),
      "",
    );
}

async function remove(hook) {
  if (
    await question(
      `Delete ${hook.note || hook.url}?`,
      "Nothing is sent there from then on, and what waits for it is deleted. This cannot be undone.",
      "Delete",
      { danger: true },
    )
  )
    await change(() => send(pathOf(hook), { method: "DELETE" }), "Deleted.");
}

const showSecret = ({ url, secret }) =>
  showOnce("Secret", "The secret of this address", "Secret", secret, [
    `The receiver at ${url} checks by it that a message is from this service.`,
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
          "Show older",
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
                hasSent ? "Everything was delivered." : "Nothing was sent yet.",
              ),
            ]),
      );
    else find("#dead").append(...rows);
    if (more) find("#dead").append(more);
  });
}

function deadRow(delivery) {
  const why =
    delivery.error ?? (delivery.status === null ? "no answer" : `answered ${delivery.status}`);
  const retry = () =>
    change(
      () => ask(`/v1/webhooks/deliveries/${delivery.delivery_id}/retry`, { method: "POST" }),
      "It is sent again.",
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
        `${delivery.sent_to ?? "not sent"} · ${count(delivery.attempts, "try", "tries")} · ${sentence(why)}`,
      ),
    ),
    delivery.webhook_id !== null && h("button", { type: "button", onclick: retry }, "Send again"),
  );
}
