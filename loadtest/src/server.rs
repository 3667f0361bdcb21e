//! The server that is measured: one that is there already, or one that is started for the run and gone afterwards.

pub(crate) mod install;
mod process;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use crate::{
    clock::Time,
    control::Via,
    failure::{Context, Failure, Result},
    profile::{Bus, Port, Profile, Start},
    server::{install::Installed, process::Process},
};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// How servers are started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Launch {
    /// `clarion-broker`, where it does not lie beside this program.
    pub(crate) broker: Option<PathBuf>,
    /// Cores for the server, as `taskset -c` takes them.
    pub(crate) server_cores: Option<String>,
    pub(crate) bus_cores: Option<String>,
    /// More arguments for the server.
    pub(crate) server_args: Vec<String>,
    pub(crate) server_env: Vec<(String, String)>,
    pub(crate) nodes: usize,
    /// Threads that own sockets, where somebody said how many.
    pub(crate) shards: Option<u32>,
}

/// A server, and how it is spoken to.
pub(crate) struct Server {
    /// As it was asked for: `clarion:redis`.
    pub(crate) name: String,
    pub(crate) profile: Profile,
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) via: Option<(Via, Vec<SocketAddr>)>,
    /// Processes whose descendants, with them, are the server.
    pub(crate) pids: Vec<u32>,
    /// The same of the bus.
    pub(crate) bus_pids: Vec<u32>,
    nodes: Vec<Node>,
    bus: Option<Process>,
    _directory: Option<tempfile::TempDir>,
}

/// A node that can be started again on its port.
struct Node {
    command: Command,
    process: Process,
    port: u16,
    ready: Option<(u16, String)>,
}

/// The name of a server and the bus behind it.
pub(crate) fn parse_name(name: &str) -> Result<(&str, Bus)> {
    match name.rsplit_once(':') {
        Some((server, "redis")) => Ok((server, Bus::Redis)),
        Some((server, "nats")) => Ok((server, Bus::Nats)),
        Some((_, bus)) if !bus.contains('/') => {
            Err(Failure::usage(format!("there is no bus `{bus}`")).remedy("a server is NAME, NAME:redis or NAME:nats"))
        }
        _ => Ok((name, Bus::None)),
    }
}

impl Server {
    /// One that is there already. Its process tree is known only when somebody says its ids.
    pub(crate) fn given(
        profile: Profile,
        targets: Vec<SocketAddr>,
        publish_to: Option<SocketAddr>,
        bus: Bus,
        pids: Vec<u32>,
    ) -> Result<Self> {
        let (via, port) = profile.way_in(bus)?;
        if port != Port::Clients && publish_to.is_none() {
            return Err(Failure::usage("nobody said where to publish").remedy("say it with --publish-to"));
        }
        let way = publish_to.map_or_else(|| targets.clone(), |address| vec![address]);
        let name = profile.name.clone();
        let via = Some((via, way));
        Ok(Self {
            name,
            profile,
            targets,
            via,
            pids,
            bus_pids: Vec::new(),
            nodes: Vec::new(),
            bus: None,
            _directory: None,
        })
    }

    /// Starts the nodes of a server and, where its name asks for it, a bus.
    pub(crate) fn start(name: &str, launch: &Launch) -> Result<Self> {
        let (plain, kind) = parse_name(name)?;
        let profile = Profile::load(plain)?;
        if launch.nodes > 1 && kind == Bus::None {
            return Err(Failure::usage(format!("{} nodes of {name} would not know of each other", launch.nodes))
                .remedy(format!("put them behind a bus: {name}:redis or {name}:nats")));
        }
        let start = profile.start.clone().ok_or_else(|| {
            Failure::usage(format!("the profile {plain} does not say how to start it"))
                .remedy("start it, and use --target")
        })?;
        if launch.shards.is_some() && !start.knows("{shards}") {
            return Err(Failure::usage(format!("the profile {plain} says nothing of {{shards}}")));
        }
        let directory = tempfile::tempdir().internal(|| "cannot make a temporary directory".to_owned())?;
        let mut ports = Ports::default();
        let (bus, bus_port) = start_bus(kind, launch, &mut ports)?;
        let installed = Installed::ensure(&profile.name, &start)?;
        let aux = ports.next()?;
        let mut started = Vec::new();
        for number in 0..launch.nodes.max(1) {
            let (port, admin) = (ports.next()?, ports.next()?);
            let place = Place { port, admin, aux, bus: bus_port, number, directory: directory.path() };
            started.push(Node::start(&start, &place, kind, launch, &installed)?);
        }
        // All at once: a hundred would take long one after the other.
        started.iter_mut().try_for_each(|node| node.wait_ready(|| {}))?;
        let targets: Vec<_> = started.iter().map(|node| local(node.port)).collect();
        let (via, port) = profile.way_in(kind)?;
        let way = match port {
            Port::Clients => targets.clone(),
            Port::Aux => vec![local(aux)],
            Port::Bus => vec![local(bus_port)],
        };
        Ok(Self {
            name: name.to_owned(),
            profile,
            targets,
            via: Some((via, way)),
            pids: started.iter().map(|node| node.process.pid()).collect(),
            bus_pids: bus.iter().map(Process::pid).collect(),
            nodes: started,
            bus,
            _directory: Some(directory),
        })
    }

    /// Nodes that can be restarted.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Asks a node to leave, waits until it has, and starts it again; `meanwhile` is called while that takes its time.
    pub(crate) fn restart(&mut self, number: usize, mut meanwhile: impl FnMut()) -> Result<Duration> {
        let node = &mut self.nodes[number];
        let begun = Time::now();
        node.process.terminate();
        while node.process.runs() {
            meanwhile();
            if Time::now().since(begun) > PATIENCE {
                return Err(Failure::unavailable(format!("node {number} does not leave within {PATIENCE:?}")));
            }
        }
        let left = Time::now().since(begun);
        node.process = Process::spawn(&mut node.command)?;
        self.pids[number] = node.process.pid();
        node.wait_ready(meanwhile)?;
        Ok(left)
    }

    /// Whether all that was started for this run still runs, or what the one that ended had to say.
    pub(crate) fn check(&mut self) -> Result<()> {
        let processes = self.nodes.iter_mut().map(|node| &mut node.process).chain(&mut self.bus);
        for process in processes {
            if !process.runs() {
                return Err(Failure::unavailable(format!("{} has ended:\n{}", self.name, process.words())));
            }
        }
        Ok(())
    }
}

/// What the words in braces mean for one node.
struct Place<'a> {
    port: u16,
    admin: u16,
    aux: u16,
    bus: u16,
    number: usize,
    directory: &'a std::path::Path,
}

impl Node {
    fn start(start: &Start, place: &Place<'_>, kind: Bus, launch: &Launch, installed: &Installed) -> Result<Self> {
        let extra = start.bus.get(&kind).ok_or_else(|| Failure::usage("this server cannot be behind that bus"))?;
        let extension = start.extension.as_deref().unwrap_or("conf");
        let config = place.directory.join(format!("config-{}.{extension}", place.number));
        let fill = |text: &str| fill(text, place, &config.to_string_lossy(), launch, installed);
        if let Some(text) = &start.config {
            std::fs::write(&config, fill(text)?).internal(|| "cannot write a configuration".to_owned())?;
        }
        let words = start.command.iter().chain(extra).map(|word| fill(word));
        let mut words: Vec<String> = words.collect::<Result<_>>()?;
        words.extend(launch.server_args.iter().cloned());
        let mut command = process::command(&words, launch.server_cores.as_deref());
        command.current_dir(place.directory);
        installed.environment(&mut command);
        command.envs(launch.server_env.iter().cloned());
        let process = Process::spawn(&mut command)?;
        let ready = start.ready.clone().map(|path| (place.admin, path));
        Ok(Self { command, process, port: place.port, ready })
    }

    fn wait_ready(&mut self, mut meanwhile: impl FnMut()) -> Result<()> {
        let deadline = Time::now() + PATIENCE;
        while Time::now() < deadline {
            let ready = match &self.ready {
                Some((admin, path)) => answers(local(*admin), path),
                None => TcpStream::connect(local(self.port)).is_ok(),
            };
            if ready {
                return Ok(());
            }
            if !self.process.runs() {
                break;
            }
            meanwhile();
            std::thread::sleep(PAUSE);
        }
        Err(Failure::unavailable(format!("the server did not get ready:\n{}", self.process.words())))
    }
}

fn start_bus(kind: Bus, launch: &Launch, ports: &mut Ports) -> Result<(Option<Process>, u16)> {
    let port = ports.next()?;
    let text = port.to_string();
    let words: Vec<&str> = match kind {
        Bus::None => return Ok((None, 0)),
        Bus::Redis => vec![
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--port",
            &text,
            // A broker that is saturated on purpose may be behind for longer than Redis allows by default.
            "--client-output-buffer-limit",
            "pubsub 0 0 0",
        ],
        Bus::Nats => vec!["nats-server", "-a", "127.0.0.1", "-p", &text],
    };
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    words[0] =
        install::program(&words[0]).ok_or_else(|| install::missing(&words[0], std::slice::from_ref(&words[0])))?;
    let mut process = Process::spawn(&mut process::command(&words, launch.bus_cores.as_deref()))?;
    let deadline = Time::now() + PATIENCE;
    while TcpStream::connect(local(port)).is_err() {
        if !process.runs() || Time::now() > deadline {
            return Err(Failure::unavailable(format!("the bus did not start:\n{}", process.words())));
        }
        std::thread::sleep(PAUSE);
    }
    Ok((Some(process), port))
}

fn fill(text: &str, place: &Place<'_>, config: &str, launch: &Launch, installed: &Installed) -> Result<String> {
    let mut text = text.to_owned();
    if let Some(name) = text.strip_prefix("{program:").and_then(|name| name.strip_suffix('}')) {
        return install::program(name).ok_or_else(|| install::missing(name, &installed.debian));
    }
    if text == "{broker}" {
        let given = launch.broker.clone().map(|path| path.to_string_lossy().into_owned());
        let found =
            given.or_else(|| install::beside_us("clarion-broker")).or_else(|| install::program("clarion-broker"));
        return found.ok_or_else(|| {
            Failure::unavailable("clarion-broker is not to be found")
                .remedy("build it with `cargo build --release -p clarion-broker`, or say where it is with --broker")
        });
    }
    if text == "{loadtest}" {
        return Ok(std::env::current_exe()?.to_string_lossy().into_owned());
    }
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    let words = [
        ("{port}", place.port.to_string()),
        ("{admin}", place.admin.to_string()),
        ("{aux}", place.aux.to_string()),
        ("{bus}", local(place.bus).to_string()),
        ("{node}", format!("node-{}", place.number)),
        ("{dir}", place.directory.to_string_lossy().into_owned()),
        ("{config}", config.to_owned()),
        ("{peers}", installed.folder.to_string_lossy().into_owned()),
        ("{user}", user),
        // 0 is what the server thinks best.
        ("{shards}", launch.shards.unwrap_or(0).to_string()),
    ];
    for (word, meaning) in words {
        text = text.replace(word, &meaning);
    }
    Ok(text)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Ports below those that the kernel gives to outgoing connections, thousands of which will be opened; each is given only
/// once, since it takes a while until a server has taken it.
struct Ports(std::ops::Range<u16>);

impl Default for Ports {
    fn default() -> Self {
        let first = 10_000 + (std::process::id() as u16 ^ (Time::now().0 >> 10) as u16) % 12_000;
        Self(first..first + 10_000)
    }
}

impl Ports {
    fn next(&mut self) -> Result<u16> {
        let free = self.0.find(|port| TcpListener::bind(local(*port)).is_ok());
        free.ok_or_else(|| Failure::unavailable("no port of 127.0.0.1 is free"))
    }
}

/// Whether a path is answered with 200.
fn answers(address: SocketAddr, path: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}
