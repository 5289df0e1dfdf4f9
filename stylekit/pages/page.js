"use strict";

for (const figure of document.querySelectorAll(".before-after")) {
  const views = figure.querySelector(".views");
  const handle = views.querySelector("input");
  const show = () => {
    views.style.setProperty("--shown", `${handle.value}%`);
    handle.setAttribute("aria-valuetext", `${handle.value}% photograph`);
  };
  const follow = (event) => {
    const box = views.getBoundingClientRect();
    handle.value = Math.round(((event.clientX - box.left) / box.width) * 100);
    show();
  };
  let held = false;
  views.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    held = true;
    if (event.isTrusted) views.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    event.preventDefault();
    follow(event);
  });
  views.addEventListener("pointermove", (event) => held && follow(event));
  for (const end of ["pointerup", "pointercancel"]) views.addEventListener(end, () => (held = false));
  handle.addEventListener("input", show);
  handle.hidden = false;
  figure.classList.add("live");
  show();
}

for (const film of document.querySelectorAll(".film")) {
  const frames = [...film.querySelectorAll(".frame")];
  const controls = film.querySelector(".controls");
  const slider = controls.querySelector("input");
  const output = controls.querySelector("output");
  const button = controls.querySelector("button");
  let timer = null;
  const show = () => {
    frames.forEach((frame, index) => (frame.hidden = index !== Number(slider.value)));
    output.textContent = frames[slider.value].dataset.label;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };
  const advance = () => {
    slider.value = Number(slider.value) + 1;
    show();
    if (slider.value === slider.max) stop();
  };
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (slider.value === slider.max) slider.value = 0;
    show();
    button.textContent = "Stop";
    timer = setInterval(advance, 700);
  });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  controls.hidden = false;
  film.classList.add("live");
  show();
}
