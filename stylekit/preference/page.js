const PAUSE_MS = 180; // the choice stays visible for so long
const element = (id) => document.getElementById(id);
const views = ["welcome", "intro", "trial", "end"];
const picture = (id) => `pictures/${id}`;

let state = null; // what the server said of this rater, with every choice so far
let shownAt = 0;
let busy = true;
let introduced = null; // the question whose words the rater has read

function show(view) {
  for (const name of views) element(name).hidden = name !== view;
}

async function send(path, message) {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(message) });
  } catch {
    throw new Error("Not saved: stylekit prefer does not answer. Start it again, and open the address that it prints.");
  }
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

const answered = () => state.trials.filter((trial) => trial.choice).length;
const next = () => state.trials.find((trial) => !trial.choice);

function lastAnswered() {
  const order = state.trials.filter((trial) => trial.choice);
  return order.at(-1);
}

function fill(strip, question) {
  const ids = question === "pref_a" ? state.references : [];
  strip.replaceChildren(...ids.map((id) => Object.assign(new Image(), { src: picture(id), alt: "An example of the style" })));
}

async function start(rater) {
  element("welcome-error").textContent = "";
  try {
    state = await send("trials", { rater });
  } catch (error) {
    element("welcome-error").textContent = error.message;
    return;
  }
  introduced = null;
  proceed();
}

function proceed() {
  const trial = next();
  if (!trial) return finish();
  if (introduced !== trial.question) return introduce(trial.question);
  present(trial);
}

function introduce(question) {
  busy = true;
  const names = Object.keys(state.questions);
  const [title, text] = state.questions[question];
  element("intro-part").textContent = names.length > 1 ? `Part ${names.indexOf(question) + 1} of ${names.length}` : "";
  element("intro-title").textContent = title;
  element("intro-text").textContent = question === "pref_a" && !state.references.length ? "Choose the one that you like better." : text;
  fill(element("intro-strip"), question);
  element("begin").onclick = () => {
    introduced = question;
    proceed();
  };
  show("intro");
  element("begin").focus();
}

async function load(image, id) {
  image.src = picture(id);
  await image.decode().catch(() => {
    throw new Error("A picture could not be loaded. Load the page again.");
  });
}

async function present(trial) {
  busy = true;
  const stage = element("stage");
  const [title] = state.questions[trial.question];
  stage.classList.add("waiting");
  stage.classList.toggle("with-photograph", Boolean(trial.photograph));
  element("photograph").hidden = !trial.photograph;
  for (const side of ["left", "right"]) element(side).classList.remove("chosen");
  if (element("question").textContent !== title || !element("strip").childElementCount) fill(element("strip"), trial.question);
  element("question").textContent = title;
  element("error").textContent = "";
  const index = state.trials.indexOf(trial);
  element("count").textContent = `${index + 1} of ${state.trials.length}`;
  element("bar").setAttribute("aria-valuemax", state.trials.length);
  element("bar").setAttribute("aria-valuenow", answered());
  element("bar-done").style.width = `${(100 * answered()) / state.trials.length}%`;
  element("undo").disabled = !lastAnswered();
  show("trial");
  try {
    const shown = [load(element("left-image"), trial.left), load(element("right-image"), trial.right)];
    if (trial.photograph) shown.push(load(element("photograph-image"), trial.photograph));
    await Promise.all(shown);
  } catch (error) {
    element("error").textContent = error.message;
    return;
  }
  stage.classList.remove("waiting");
  element("said").textContent = `${title} Pair ${index + 1} of ${state.trials.length}.`;
  shownAt = performance.now();
  busy = false;
  const after = state.trials[index + 1];
  if (after) for (const id of [after.left, after.right]) new Image().src = picture(id);
}

async function choose(side) {
  if (busy || element("trial").hidden) return;
  busy = true;
  const trial = next();
  element(side).classList.add("chosen");
  const pause = new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  try {
    const response_ms = Math.round(performance.now() - shownAt);
    await send("votes", { rater: state.rater, trial: trial.id, choice: side, response_ms });
  } catch (error) {
    element(side).classList.remove("chosen");
    element("error").textContent = error.message;
    busy = false;
    return;
  }
  await pause;
  trial.choice = side;
  proceed();
}

async function undo() {
  const trial = state && lastAnswered();
  if (!trial || (busy && !element("trial").hidden)) return;
  const place = element("trial").hidden ? "end-error" : "error";
  busy = true;
  try {
    await send("votes", { rater: state.rater, trial: trial.id, choice: null });
  } catch (error) {
    element(place).textContent = error.message;
    busy = false;
    return;
  }
  trial.choice = null;
  introduced = trial.question;
  present(trial);
}

function finish() {
  busy = true;
  element("end-title").textContent = "Thank you";
  element("end-text").textContent = `All ${state.trials.length} choices are saved. You can close this page.`;
  leave(false);
}

function pause() {
  busy = true;
  element("end-title").textContent = "Paused";
  element("end-text").textContent = `${answered()} of ${state.trials.length} choices are saved. Close the page if you like; with the same name you go on from here.`;
  leave(true);
}

function leave(more) {
  element("end-error").textContent = "";
  element("on").hidden = !more;
  element("back").hidden = more || !lastAnswered();
  show("end");
  element("end-title").focus();
}

function welcome(name) {
  element("rater").value = name;
  show("welcome");
  element("rater").focus();
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  start(element("rater").value);
});
for (const side of ["left", "right"]) element(side).addEventListener("click", () => choose(side));
element("undo").addEventListener("click", undo);
element("back").addEventListener("click", undo);
element("pause").addEventListener("click", pause);
element("on").addEventListener("click", proceed);
element("other").addEventListener("click", () => welcome(""));

const sides = { ArrowLeft: "left", ArrowUp: "left", 1: "left", ArrowRight: "right", ArrowDown: "right", 2: "right" };
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLInputElement) return;
  if (!element("trial").hidden && event.key in sides) {
    event.preventDefault();
    choose(sides[event.key]);
  } else if (event.key === "Backspace" && (!element("trial").hidden || !element("end").hidden)) {
    event.preventDefault();
    undo();
  }
});

const greeted = new URLSearchParams(location.search).get("rater");
if (greeted) start(greeted);
else welcome("");
