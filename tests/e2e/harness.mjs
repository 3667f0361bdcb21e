// Starts servers and the real broker for the tests of this folder, and stops them with the test.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const SCREENSHOTS = join(ROOT, "target", "screenshots");
mkdirSync(SCREENSHOTS, { recursive: true });

const BROKER = process.env.CLARION_BROKER ?? join(ROOT, "target", "debug", "clarion-broker");
const CHROMIUM = process.env.CLARION_CHROMIUM ?? "/usr/bin/chromium";

/** How long anything may take before a test gives up, in milliseconds. */
export const PATIENCE = Number(process.env.CLARION_TEST_PATIENCE ?? 30) * 1000;

const running = new Set();
process.on("exit", () => running.forEach(end));
// Without a word of ours a signal ends this process as it is, and leaves its children behind.
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => process.exit(1));

/** Ends a child; one that leads a group of processes (`detached`) with all of them. */
function end(child) {
  try {
    child.group ? process.kill(-child.pid, "SIGKILL") : child.kill("SIGKILL");
  } catch {
    // It has ended.
  }
}

/** A child process whose output is kept, ended with the test `t`. */
export class Process {
  constructor(t, command, args, options = {}) {
    this.name = command.split("/").pop();
    this.lines = [];
    this.waiting = new Set();
    this.child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    this.child.group = options.detached && this.child.pid;
    this.ended = new Promise((resolve) => this.child.once("close", resolve));
    running.add(this.child);
    for (const stream of [this.child.stdout, this.child.stderr]) this.#read(stream);
    this.child.once("error", (error) => this.#fail(error));
    this.child.once("close", () => this.#fail(new Error(`${this.name} ended:\n${this.lines.join("\n")}`)));
    t.after(() => this.kill());
  }

  #read(stream) {
    let rest = "";
    stream.setEncoding("utf8").on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      this.lines.push(...lines);
      for (const waiting of [...this.waiting]) lines.forEach(waiting.look);
    });
  }

  #fail(error) {
    for (const waiting of [...this.waiting]) waiting.fail(error);
  }

  /** Waits until `check` makes something of a line of the output. */
  line(what, check) {
    return within(`${this.name} ${what}`, new Promise((resolve, reject) => {
      const waiting = {
        look: (line) => {
          const found = check(line);
          if (found) this.waiting.delete(waiting), resolve(found);
        },
        fail: reject,
      };
      this.waiting.add(waiting);
      this.lines.forEach(waiting.look);
    }));
  }

  async kill() {
    running.delete(this.child);
    end(this.child);
    await this.ended;
  }
}

/** Awaits a promise, but not for ever. */
export async function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${PATIENCE} ms`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Asks again and again until `check` gives something, and returns that. */
export async function eventually(what, check) {
  const deadline = Date.now() + PATIENCE;
  let last;
  while (Date.now() < deadline) {
    try {
      const value = await check();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`${what}: not within ${PATIENCE} ms`, { cause: last });
}

/** A port of 127.0.0.1 below the range of outgoing connections, which nobody listens on now. */
export async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 22_000);
    const free = await new Promise((resolve) => {
      const server = createServer();
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

/** Starts on a free port, and on another one when somebody was faster. */
export async function onFreePort(start) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start(await freePort());
    } catch (error) {
      if (attempt === 20 || !/address already in use/i.test(error.message)) throw error;
    }
  }
}

function folder(t) {
  const path = mkdtempSync(join(tmpdir(), "clarion-e2e-"));
  t.after(() => rmSync(path, { recursive: true, force: true, maxRetries: 5 }));
  return path;
}

/** A Redis server: `url`, and `cli(…)` that runs redis-cli. */
export function startRedis(t) {
  return onFreePort(async (port) => {
    const args = ["--bind", "127.0.0.1", "--port", `${port}`, "--save", "", "--dir", folder(t)];
    const server = new Process(t, "redis-server", args);
    await server.line("is ready", (line) => line.includes("Ready to accept connections"));
    const cli = (...args) => run("redis-cli", ["-e", "-p", `${port}`, ...args]);
    return { url: `redis://127.0.0.1:${port}`, server, cli };
  });
}

/** A NATS server: `url`. */
export function startNats(t) {
  return onFreePort(async (port) => {
    const server = new Process(t, "nats-server", ["--addr", "127.0.0.1", "--port", `${port}`]);
    await server.line("is ready", (line) => line.includes("Server is ready"));
    return { url: `nats://127.0.0.1:${port}`, server };
  });
}

/** A node: `url`, `admin` and its process. `toml` becomes its configuration file; it listens on any port unless told where. */
export async function startBroker(t, { args = [], env = {}, toml, listen = "127.0.0.1:0" } = {}) {
  const own = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("CLARION_")));
  const all = ["--listen", listen, "--admin-listen", "127.0.0.1:0", "--log-format", "json", ...args];
  if (toml) {
    const path = join(folder(t), "clarion.toml");
    writeFileSync(path, toml);
    all.push("--config", path);
  }
  const broker = new Process(t, BROKER, all, { env: { ...own, ...env } });
  const record = await broker.line("listens", (line) => {
    try {
      const record = JSON.parse(line);
      const fields = record.fields ?? record;
      return fields.message === "listening" && fields;
    } catch {
      return undefined;
    }
  });
  const admin = `http://${record.admin}`;
  await eventually("the node is ready", async () => (await fetch(`${admin}/health/ready`)).ok);
  return { url: `http://${record.listen}`, admin, node: record.node, process: broker };
}

/** Runs a command to its end and returns what it prints. */
export async function run(command, args) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (output += text));
  const ended = new Promise((resolve, reject) => child.once("close", resolve).once("error", reject));
  const code = await within(command, ended).finally(() => (running.delete(child), end(child)));
  if (code !== 0) throw new Error(`${command} ${args.join(" ")}: exit code ${code}\n${output}`);
  return output.trim();
}

/** Debian's Chromium, without a sandbox since tests may run as root, and without its own business in the network. */
export async function startChromium(t) {
  const { chromium } = await import("playwright-core");
  const quiet = ["background-networking", "component-update", "sync", "gpu", "default-apps", "extensions"];
  const args = ["--no-sandbox", "--no-first-run", ...quiet.map((name) => `--disable-${name}`)];
  const browser = await chromium.launch({ executablePath: CHROMIUM, args, timeout: PATIENCE });
  t.after(() => browser.close());
  return browser;
}
