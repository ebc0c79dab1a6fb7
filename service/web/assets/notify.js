// Sound and notifications of the browser for new alerts, each after the user has switched it on.

import { find } from "./elements.js";
import { t } from "./texts.js";

const SOUND = "gmn-alert-sound";
const NOTIFICATIONS = "gmn-alert-notifications";
const TONES_HZ = [880, 1175];
const TONE_SECONDS = 0.14;
const LOUDNESS = 0.2;
// Another tab takes this time at most to say that it sounds.
const SOUND_WITHIN_MS = 200;
// Tells the other tabs what became of a sound that was due in the one that announces alerts.
const sounds = new BroadcastChannel("gmn-alert-sounds");
let audio = null;
let sounding = 0;

const isOn = (what) => localStorage.getItem(what) === "yes";

export const isNotifying = () => isOn(SOUND) || isOn(NOTIFICATIONS);

function say(text) {
  find("#notify-said").textContent = text;
}

export function startNotifying() {
  const sound = find("#alert-sound");
  const notifications = find("#alert-notifications");
  sound.checked = isOn(SOUND);
  notifications.checked = isOn(NOTIFICATIONS) && canNotify();
  sound.addEventListener("change", () => {
    if (sound.checked) switchOn(sound, SOUND, playFirst);
    else localStorage.removeItem(SOUND);
  });
  notifications.addEventListener("change", () => {
    if (notifications.checked) switchOn(notifications, NOTIFICATIONS, askAndShow);
    else localStorage.removeItem(NOTIFICATIONS);
  });
  if (sound.checked) wake();
}

// Remember what was switched on, or say why the browser refuses it.
async function switchOn(box, what, action) {
  say("");
  try {
    await action();
    localStorage.setItem(what, "yes");
  } catch (error) {
    box.checked = false;
    localStorage.removeItem(what);
    say(error.message);
  }
}

const canNotify = () => "Notification" in window && Notification.permission === "granted";

async function askAndShow() {
  if (!("Notification" in window)) throw new Error(t("notify.needs_https"));
  if ((await Notification.requestPermission()) !== "granted") throw new Error(t("notify.refused"));
  show(t("notify.example_title"), t("notify.example"), "gmn-alerts");
}

function show(title, body, tag) {
  let shown;
  try {
    shown = new Notification(title, { body, tag, icon: "/assets/icon.svg" });
  } catch {
    throw new Error(t("notify.on_phones"));
  }
  shown.addEventListener("click", () => {
    window.focus();
    shown.close();
  });
}

async function playFirst() {
  if (!("AudioContext" in window)) throw new Error(t("notify.no_sound"));
  audio ??= new AudioContext();
  await audio.resume();
  play();
}

// Browsers start the sound of a page that was loaded again only after a click or a key.
function wake() {
  audio ??= new AudioContext();
  if (audio.state === "running") return;
  const silent = t("notify.silent");
  say(silent);
  const resume = async () => {
    await audio.resume();
    if (find("#notify-said").textContent === silent) say("");
  };
  for (const event of ["pointerdown", "keydown"])
    document.addEventListener(event, resume, { once: true });
}

function play() {
  const now = audio.currentTime;
  TONES_HZ.forEach((frequency, number) => {
    const tone = new OscillatorNode(audio, { frequency });
    const volume = new GainNode(audio, { gain: LOUDNESS });
    const from = now + number * TONE_SECONDS;
    // Fade out, since a tone that is cut off clicks.
    volume.gain.setValueAtTime(LOUDNESS, from);
    volume.gain.exponentialRampToValueAtTime(0.001, from + TONE_SECONDS);
    tone.connect(volume).connect(audio.destination);
    tone.start(from);
    tone.stop(from + TONE_SECONDS);
  });
}

// A browser that was not clicked at in one tab may still play in another.
function sound() {
  if (audio?.state === "running") play();
  else sounds.postMessage("silent");
}

sounds.addEventListener("message", ({ data }) => {
  clearTimeout(sounding);
  if (data !== "silent" || audio?.state !== "running") return;
  sounding = setTimeout(() => {
    sounds.postMessage("sounded");
    play();
  }, Math.random() * SOUND_WITHIN_MS);
});

// Tell of a new alert in the ways that are switched on; one tab does so for all.
export function notify({ title, body, tag }) {
  if (isOn(SOUND)) sound();
  if (!isOn(NOTIFICATIONS) || !canNotify()) return;
  try {
    show(title, body, tag);
  } catch (error) {
    say(error.message);
  }
}
