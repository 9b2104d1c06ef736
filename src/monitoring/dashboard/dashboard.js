// Renews the figures of the page that is open. It asks only the site that it came from.
(() => {
  "use strict";
  const every = 10000;
  const live = document.getElementById("live");
  const pause = document.getElementById("pause");
  let paused = false;
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on updating" : "Pause updates";
  });
  const renew = async () => {
    // Nobody loses the place that they read or fill in.
    if (paused || document.hidden || live.contains(document.activeElement)) return;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const open = new Set([...live.querySelectorAll("details[open]")].map((one) => one.id));
      const next = page.getElementById("live");
      next.querySelectorAll("details").forEach((one) => { one.open = open.has(one.id); });
      live.replaceChildren(...next.childNodes);
      document.getElementById("as-of").textContent = page.getElementById("as-of").textContent;
    } catch {
      // The site is away; the next turn tries again.
    }
  };
  window.setInterval(renew, every);
  document.addEventListener("streamrec-renew", renew);
})();
