//! A broker, seen from outside: reachable, of one mind with its cluster, ready, and of our time.

use std::time::{Duration, SystemTime};

use reqwest::header;
use serde_json::Value;
use url::Url;

use super::Finding;
use crate::{
    context::Context,
    failure::Failure,
    members::Cluster,
    nodes,
    via::{
        Http,
        http::{is_this_machine, path_of},
    },
};

/// The port of the admin listener, unless it is configured.
const ADMIN_PORT: u16 = 8001;
/// From here on tokens begin to be refused at their edges: their leeway is 60 s.
const CLOCK_FAILS: Duration = Duration::from_secs(60);
/// From here on somebody should look: `Date` counts whole seconds, and the way takes some of one.
const CLOCK_WARNS: Duration = Duration::from_secs(3);

/// Looks at the broker of `--via`.
pub(super) async fn check(context: &Context, url: &Url, admin: Option<&Url>) -> Vec<Finding> {
    let http = match Http::new(context, url) {
        Ok(http) => http,
        Err(failure) => return vec![Finding::fail("broker", failure)],
    };
    let info = http.rpc("info").await;
    let node = info.as_ref().ok().and_then(|info| info["node"].as_str().map(str::to_owned));
    let mut findings = match info {
        Ok(info) => known(url, &info),
        Err(failure) => vec![Finding::fail("broker", failure)],
    };
    findings.push(ready(&http, url, admin, node.as_deref()).await);
    findings.push(clock(&http, url).await);
    findings
}

fn known(url: &Url, info: &Value) -> Vec<Finding> {
    let text = |key: &str| info[key].as_str().unwrap_or("?").to_owned();
    let detail = format!("node {} at {url}, release {}, bus {}", text("node"), text("version"), text("bus"));
    vec![Finding::ok("broker", detail), cluster(Cluster::told_by(info))]
}

/// Judges a cluster, however it was seen.
pub(super) fn cluster(seen: Result<Cluster, Failure>) -> Finding {
    let cluster = match seen {
        Ok(cluster) => cluster,
        Err(failure) => return Finding::fail("cluster", failure),
    };
    match (cluster.members.len(), nodes::warnings(&cluster)) {
        (0, _) => Finding::warn("cluster", "no node says that it lives").remedy("start a broker on this bus"),
        (count, warnings) if warnings.is_empty() => {
            Finding::ok("cluster", format!("{count} of one mind, ring {}", cluster.ring.identity()))
        }
        (_, warnings) => {
            let remedy = "again in a few seconds: members may be coming or going; then the logs of the nodes named";
            Finding::warn("cluster", warnings.join("; ")).remedy(remedy)
        }
    }
}

/// Asks the admin listener whether the node can deliver.
///
/// `node` is who answered at `--via`. The usual admin port may be another node's, which must not be taken for the word of
/// the one that was asked for; and of one that nobody has heard nothing can be guessed.
async fn ready(http: &Http, url: &Url, admin: Option<&Url>, node: Option<&str>) -> Finding {
    let guessed = || {
        let mut url = url.clone();
        (node.is_some() && is_this_machine(&url) && url.set_port(Some(ADMIN_PORT)).is_ok()).then_some(url)
    };
    let Some(base) = admin.cloned().or_else(guessed) else {
        return Finding::skip("ready", "name the admin listener with --admin http://…:8001 to look at it");
    };
    let answer = match http.get(path_of(&base, ["health", "ready"])).await {
        Ok(answer) => answer,
        Err(_) if admin.is_none() => {
            return Finding::skip("ready", format!("nothing at {base}; name it with --admin"));
        }
        Err(failure) => return Finding::fail("ready", failure.remedy("--admin, with the broker's --admin-listen")),
    };
    let status = answer.status();
    let said = answer.text().await.unwrap_or_default();
    let theirs = serde_json::from_str::<Value>(&said).ok().and_then(|said| said["node"].as_str().map(str::to_owned));
    match (node, theirs) {
        (Some(node), Some(theirs)) if node != theirs => another(&base, admin.is_some(), node, &theirs),
        _ if status == 200 => Finding::ok("ready", format!("{base} can deliver")),
        _ => {
            let said: String = said.trim().chars().take(500).collect();
            let failure = Failure::unavailable(format!("{base} says that it is not ready: {status} {said}"));
            Finding::fail("ready", failure.remedy("its bus: `clarion doctor --bus redis://…`, and its log"))
        }
    }
}

/// An admin listener that is not of the node at `--via`: named by hand, behind a load balancer, somebody should look.
fn another(base: &Url, named: bool, node: &str, theirs: &str) -> Finding {
    let detail = format!("{base} is of node {theirs}, not of {node}");
    let remedy = "--admin, with the --admin-listen of the node at --via";
    if named { Finding::warn("ready", detail).remedy(remedy) } else { Finding::skip("ready", detail).remedy(remedy) }
}

/// Compares clocks by the `Date` of an answer: tokens expire by the broker's clock.
async fn clock(http: &Http, url: &Url) -> Finding {
    let before = SystemTime::now();
    let Ok(answer) = http.get(url.clone()).await else {
        return Finding::skip("clock", "no broker to compare it with");
    };
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return Finding::skip("clock", "the broker does not tell the time");
    };
    judge_clock(before, SystemTime::now(), theirs)
}

/// The clocks differ by at least this much: a `Date` stands for any moment of its second.
fn judge_clock(before: SystemTime, after: SystemTime, theirs: SystemTime) -> Finding {
    let ahead = before.duration_since(theirs + Duration::from_secs(1)).unwrap_or_default();
    let behind = theirs.duration_since(after).unwrap_or_default();
    let (apart, how) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
    let detail = format!("this machine's clock is {:.0} s {how} the broker's", apart.as_secs_f64());
    let remedy = "a time service (NTP) on both machines: tokens are good or not by these clocks";
    if apart >= CLOCK_FAILS {
        return Finding::fail("clock", Failure::unavailable(detail).remedy(remedy));
    }
    if apart >= CLOCK_WARNS {
        Finding::warn("clock", detail).remedy(remedy)
    } else {
        Finding::ok("clock", "that of the broker")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn clocks_are_compared_with_what_cannot_be_known() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        for (before, after, theirs, status, word) in [
            (100_900, 101_900, 100_000, Status::Ok, ""),
            (100_000, 100_100, 103_000, Status::Ok, ""),
            (100_000, 100_100, 104_000, Status::Warn, "4 s behind"),
            (105_000, 105_100, 100_000, Status::Warn, "4 s ahead"),
            (100_000, 100_100, 161_000, Status::Fail, "61 s behind"),
            (200_000, 200_100, 100_000, Status::Fail, "99 s ahead"),
        ] {
            let finding = judge_clock(at(before), at(after), at(theirs));
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(finding.detail.contains(word), "{finding:?}");
        }
    }
}
