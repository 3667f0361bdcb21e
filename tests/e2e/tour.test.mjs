// The README's tour works as typed: its blocks are run by a shell, on ports of their own and with binaries that are built.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { connect } from "nats";
import { ROOT, freePort, startNats, startRedis, within } from "./harness.mjs";

const readme = readFileSync(join(ROOT, "README.md"), "utf8");
const tour = readme.slice(readme.indexOf("## One minute"), readme.indexOf("## What is promised"));
const blocks = [...tour.matchAll(/```sh\n(.*?)```/gs)].map((match) => match[1]);

/** `cargo run` with the very arguments of the tour, without building. */
const PRELUDE = `
set -e
cargo() {
  [ "$1" = run ] || return 64
  shift
  local package=
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in -p) package=$2; shift ;; -q | --release) ;; *) return 64 ;; esac
    shift
  done
  [ "$1" = -- ] && shift
  case "$package" in
    clarion-broker) exec "${join(ROOT, "target/debug/clarion-broker")}" "$@" ;;
    clarion-cli) "${join(ROOT, "target/debug/clarion")}" "$@" ;;
    *) return 64 ;;
  esac
}
`;

/** A terminal: runs blocks of the tour, with its ports exchanged for free ones. */
class Terminal {
  constructor(t, ports) {
    this.ports = ports;
    this.environment = { ...process.env, CLARION_VIA: `http://127.0.0.1:${ports[8000]}` };
    for (const name of ["CLARION_BUS", "CLARION_TOKEN", "CLARION_LISTEN"]) delete this.environment[name];
    this.t = t;
  }

  text(block) {
    return block.replace(/\b(8000|8001|8002|8003|6379|4222)\b/g, (port) => this.ports[port] ?? port);
  }

  /** Starts something that does not end; `until(text)` waits until its output has the text. */
  start(block) {
    const child = spawn("bash", ["-c", PRELUDE + this.text(block)], { env: this.environment, detached: true });
    const stop = () => {
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // It has ended.
      }
    };
    this.t.after(stop);
    process.once("exit", stop);
    let output = "";
    const waiting = new Set();
    const ended = new Promise((resolve) => child.once("close", (code) => resolve(code)));
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
        waiting.forEach((look) => look());
      });
    }
    const until = (text) => within(`${JSON.stringify(text)} in the output of\n${block}`, new Promise((resolve, reject) => {
      const look = () => output.includes(text) && (waiting.delete(look), resolve());
      waiting.add(look);
      ended.then(() => reject(new Error(`it ended:\n${output}`)));
      look();
    })).catch((error) => { throw new Error(`${error.message}\nso far:\n${output}`); });
    return { until, ended, output: () => output, stop };
  }

  /** Runs a block to its end and returns what it printed. */
  async run(block) {
    const { ended, output } = this.start(block);
    assert.equal(await within(block, ended), 0, `${block}\n${output()}`);
    return output();
  }
}

const ports = async (more) => {
  const own = { 8000: await freePort(), 8001: await freePort(), 8002: await freePort(), 8003: await freePort(), ...more };
  return own;
};

/** A node of the tour, listening. The tour's first node is given its ports, since 8000 may be in use here. */
async function node(terminal, line) {
  const first = !line.includes("--listen");
  const own = first ? ` --listen 127.0.0.1:8000 --admin-listen 127.0.0.1:8001` : "";
  const separator = first && !line.includes(" -- ") ? " --" : "";
  const broker = terminal.start(line.split("#")[0].trimEnd() + separator + own);
  const admin = terminal.ports[first ? 8001 : 8003];
  await within("the node is ready", (async () => {
    for (;;) {
      const ready = await fetch(`http://127.0.0.1:${admin}/health/ready`).then((answer) => answer.ok, () => false);
      if (ready) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })());
  return broker;
}

/** Publishes until a follower shows it: what follows may still be connecting, and the tour's reader is slower than that. */
async function shows(follower, publish, texts) {
  for (let attempt = 0; ; attempt++) {
    await publish();
    await new Promise((resolve) => setTimeout(resolve, 50));
    if (texts.every((text) => follower.output().includes(text)) || attempt === 200) break;
  }
  for (const text of texts) await follower.until(text);
}

test("the tour on the embedded bus", async (t) => {
  const terminal = new Terminal(t, await ports());
  const [start] = readme.match(/cargo run --release -p clarion-broker.*/);
  await node(terminal, start);
  const [tail, publish, listen, me, push] = blocks;

  const news = terminal.start(tail);
  await shows(news, () => terminal.run(publish), ["hello", '{"hello":"JSON"}']);
  const stream = terminal.start(listen);
  await shows(stream, () => terminal.run(publish), ["data: hello\n", 'data: {"hello":"JSON"}\n']);
  const mine = terminal.start(me);
  await shows(mine, () => terminal.run(push), ['users/42\t{"paid":true}', "users/42\tshipped"]);
});

test("the tour on Redis", async (t) => {
  const redis = await startRedis(t);
  const terminal = new Terminal(t, await ports({ 6379: new URL(redis.url).port }));
  const [first, second, publish] = blocks[5].trim().split("\n");
  await Promise.all([node(terminal, first), node(terminal, second)]);
  const followers = [8000, 8002].map((port) => terminal.start(`curl -sN -H 'Accept: text/event-stream' http://localhost:${port}/news`));
  const line = publish.replace("redis-cli", "redis-cli -p 6379");
  for (const follower of followers) await shows(follower, () => terminal.run(line), ["data: hello\n"]);
});

test("the tour on NATS", async (t) => {
  const nats = await startNats(t);
  const terminal = new Terminal(t, await ports({ 4222: new URL(nats.url).port }));
  const [first, publish] = blocks[6].trim().split("\n");
  await node(terminal, first);
  const follower = terminal.start("curl -sN -H 'Accept: text/event-stream' http://localhost:8000/news");
  // The `nats` command is not everywhere; its line is read and said by a client.
  const [, subject, payload] = publish.match(/^nats pub (\S+) (\S+)$/);
  const client = await within("NATS connects", connect({ servers: nats.url }));
  t.after(() => client.close());
  const say = async () => {
    client.publish(subject, payload);
    await client.flush();
  };
  await shows(follower, say, ["data: hello\n"]);
});
