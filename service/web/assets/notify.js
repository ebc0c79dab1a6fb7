// Sound and notifications of the browser for new alerts, each after the user has switched it on.

import { find } from "./elements.js";

const SOUND = "gmn-alert-sound";
const NOTIFICATIONS = "gmn-alert-notifications";
const TONES_HZ = [880, 1175];
const TONE_SECONDS = 0.14;
const LOUDNESS = 0.2;
const NEEDS_HTTPS =
  "This browser shows no notifications here. They need an address that begins with https.";
const REFUSED =
  "The browser refuses notifications of this page. Allow them in its settings for this address, then tick the box again.";
const ON_PHONES =
  "This browser cannot show notifications of a page, as most browsers on phones cannot. Use the sound, and keep this page open.";
const SILENT = "The browser plays no sound before you have tapped or clicked on this page.";
const NO_SOUND = "This browser cannot play the sound.";
let audio = null;

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
  if (!("Notification" in window)) throw new Error(NEEDS_HTTPS);
  if ((await Notification.requestPermission()) !== "granted") throw new Error(REFUSED);
  show("Alerts of watch lists", "New alerts are shown like this.", "gmn-alerts");
}

function show(title, body, tag) {
  let shown;
  try {
    shown = new Notification(title, { body, tag, icon: "/assets/icon.svg" });
  } catch {
    throw new Error(ON_PHONES);
  }
  shown.addEventListener("click", () => {
    window.focus();
    shown.close();
  });
}

async function playFirst() {
  if (!("AudioContext" in window)) throw new Error(NO_SOUND);
  audio ??= new AudioContext();
  await audio.resume();
  play();
}

// Browsers start the sound of a page that was loaded again only after a click or a key.
function wake() {
  audio ??= new AudioContext();
  if (audio.state === "running") return;
  say(SILENT);
  const resume = async () => {
    await audio.resume();
    if (find("#notify-said").textContent === SILENT) say("");
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

// Tell of a new alert in the ways that are switched on.
export function notify({ title, body, tag }) {
  if (isOn(SOUND) && audio?.state === "running") play();
  if (!isOn(NOTIFICATIONS) || !canNotify()) return;
  try {
    show(title, body, tag);
  } catch (error) {
    say(error.message);
  }
}
