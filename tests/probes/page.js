// What a page tries from where it is served: its own port, and what is none of its business. Tells its own port how that went.
const outcomes = { origin: self.origin };
const tries = async (name, work) => {
  try {
    outcomes[name] = await work();
  } catch (error) {
    outcomes[name] = "refused";
  }
};
const json = { "content-type": "application/json" };
const sends = (url, body) => fetch(url, { method: "POST", headers: json, body: JSON.stringify(body) });
const answers = async (url) => (await (await fetch(url)).json()).target;
const echoes = () =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(new URL("../websocket", document.baseURI).href.replace(/^http/, "ws"));
    socket.onopen = () => socket.send("hello");
    socket.onmessage = (message) => resolve(message.data);
    socket.onerror = reject;
  });
(async () => {
  await tries("own", () => answers("x"));
  await tries("websocket", echoes);
  for (const api of APIS) {
    await tries("runs " + api, async () => (await sends(api + "/v1/run", { shell: "true" })).status);
    await tries("reads " + api, async () => (await fetch(api + "/v1/sandboxes")).status);
    await tries("sends blindly to " + api, async () => {
      await fetch(api + "/v1/sandboxes", { method: "POST", mode: "no-cors", body: "{}" });
      return "sent";
    });
  }
  await tries("neighbour", () => answers(NEIGHBOUR));
  await tries("storage", () => localStorage.length);
  await tries("cookies", () => document.cookie);
  await tries("worker", async () => String(await navigator.serviceWorker.register("worker.js")));
  await sends("report", outcomes);
})();
