//! The broker's configuration, which only the broker's own binary can judge.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{process::Command, time::timeout};

use super::Finding;
use crate::{args::DoctorArgs, context::Context, failure::Failure};

const CHECK: &str = "config";
const BROKER: &str = "clarion-broker";

/// Lets `clarion-broker config --check` judge, if there is one beside us or in the `PATH`.
pub(super) async fn check(context: &Context, args: &DoctorArgs) -> Finding {
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    let Some(broker) = find(beside.into_iter().chain(env::split_paths(&path))) else {
        return Finding::skip(CHECK, format!("{BROKER} is neither beside `clarion` nor in the PATH"));
    };
    let mut command = Command::new(&broker);
    command.args(["config", "--check"]).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(file) = &args.config {
        command.arg("--config").arg(file);
    }
    match timeout(context.timeout, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Finding::ok(CHECK, format!("{} takes it", broker.display())),
        Ok(Ok(output)) => {
            // The broker names every mistake with its remedy, on one stream or the other.
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            let failure = Failure::usage(format!("{} does not take it: {said}", broker.display()));
            let what = format!("what it says above; `{BROKER} config` prints what is in force");
            Finding::fail(CHECK, failure.remedy(what))
        }
        Ok(Err(error)) => Finding::warn(CHECK, format!("{} cannot be run: {error}", broker.display())),
        Err(_) => Finding::warn(CHECK, format!("{} does not answer within {:?}", broker.display(), context.timeout)),
    }
}

fn find(directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.map(|directory| directory.join(BROKER)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
