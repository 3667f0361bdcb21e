//! Finds programs, and installs the small peers' packages into a folder of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    failure::{Context, Failure, Result},
    profile::Start,
};

/// The small servers that come along.
const PEERS: [(&str, &str); 4] = [
    ("bun_server.mjs", include_str!("../../peers/bun_server.mjs")),
    ("socketio_server.mjs", include_str!("../../peers/socketio_server.mjs")),
    ("tornado_server.py", include_str!("../../peers/tornado_server.py")),
    ("ws_server.mjs", include_str!("../../peers/ws_server.mjs")),
];

/// Where a peer's programs and packages are.
#[derive(Debug, Default)]
pub(super) struct Installed {
    pub(super) folder: PathBuf,
    pub(super) debian: Vec<String>,
    python: Option<PathBuf>,
}

impl Installed {
    /// Installs what is missing. It is done once for each version: the folder's name has them.
    pub(super) fn ensure(name: &str, start: &Start) -> Result<Self> {
        let debian = start.debian.clone();
        if let Some(file) = start.needs.iter().find(|file| !Path::new(file).exists()) {
            return Err(missing(file, &debian));
        }
        let packages: Vec<_> = start.pip.iter().chain(&start.npm).chain(&start.go).collect();
        if packages.is_empty() {
            return Ok(Self { debian, ..Self::default() });
        }
        let versions: String = packages.iter().map(|package| format!("-{package}")).collect();
        let folder = cache()?.join(format!("{name}{}", versions.replace(['/', '='], "_")));
        let done = folder.join(".done");
        if !done.exists() {
            fs::create_dir_all(&folder).internal(|| format!("cannot make {}", folder.display()))?;
            if !start.pip.is_empty() {
                pip(&folder, &start.pip)?;
            }
            if !start.npm.is_empty() {
                npm(&folder, &start.npm)?;
            }
            if let Some(package) = &start.go {
                go(&folder, package)?;
            }
            fs::write(&done, "").internal(|| format!("cannot write to {}", folder.display()))?;
        }
        for (file, text) in PEERS {
            fs::write(folder.join(file), text).internal(|| format!("cannot write to {}", folder.display()))?;
        }
        let python = (!start.pip.is_empty()).then(|| folder.join("python"));
        Ok(Self { folder, debian, python })
    }

    pub(super) fn environment(&self, command: &mut Command) {
        if let Some(python) = &self.python {
            command.env("PYTHONPATH", python);
        }
    }
}

fn pip(folder: &Path, packages: &[String]) -> Result<()> {
    let python = program("python3").ok_or_else(|| missing("python3", &["python3-pip".to_owned()]))?;
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--target"]);
    run(command.arg(folder.join("python")).args(packages))
}

fn npm(folder: &Path, packages: &[String]) -> Result<()> {
    let npm = program("npm").ok_or_else(|| missing("npm", &["npm".to_owned()]))?;
    let mut command = Command::new(npm);
    command.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]);
    run(command.arg(folder).args(packages))
}

/// Builds a program at its version: in a module of our own, since that needs no look at which other versions there are.
fn go(folder: &Path, package: &str) -> Result<()> {
    let go = program("go").ok_or_else(|| {
        Failure::unavailable("go is not installed").remedy("install Go 1.23 or newer: https://go.dev/dl")
    })?;
    let (path, version) = package.split_once('@').ok_or_else(|| Failure::usage(format!("{package} has no version")))?;
    let module = format!("module peer\n\ngo 1.23\n\nrequire {path} {version}\n");
    let import = format!("//go:build tools\n\npackage peer\n\nimport _ \"{path}\"\n");
    for (file, text) in [("go.mod", module), ("tools.go", import)] {
        fs::write(folder.join(file), text).internal(|| format!("cannot write to {}", folder.display()))?;
    }
    let mut command = Command::new(go);
    run(command.current_dir(folder).env("GOFLAGS", "-mod=mod").args(["build", "-o", "."]).arg(path))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().unavailable(|| "cannot install packages".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::unavailable(format!("cannot install packages:\n{}", String::from_utf8_lossy(&output.stderr))))
}

/// Where packages are kept between runs: `CLARION_LOADTEST_CACHE`, or in the user's cache.
fn cache() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let path = variable("CLARION_LOADTEST_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("clarion-loadtest")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/clarion-loadtest")))
        .ok_or_else(|| {
            Failure::unavailable("there is no folder for packages").remedy("name one in CLARION_LOADTEST_CACHE")
        })?;
    std::path::absolute(path).internal(|| "there is no current directory".to_owned())
}

/// Finds a program in `PATH`, or where Debian puts servers, which is not in everybody's `PATH`.
pub(crate) fn program(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/bin", "/usr/local/go/bin", "/usr/bin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .map(|path| path.to_string_lossy().into_owned())
}

/// A program that lies beside this one, as those of one build do.
pub(super) fn beside_us(name: &str) -> Option<String> {
    let ours = std::env::current_exe().ok()?;
    let path = ours.parent()?.join(name);
    path.is_file().then(|| path.to_string_lossy().into_owned())
}

/// What to do where a program is missing.
pub(super) fn missing(name: &str, debian: &[String]) -> Failure {
    Failure::unavailable(format!("{name} is not installed")).remedy(format!("apt-get install {}", debian.join(" ")))
}
