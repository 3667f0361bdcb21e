//! What all commands share: the way in, the secrets of the environment, and where output goes.

use std::{env, fmt, time::Duration};

use crate::{
    args::{BusArgs, Common, TlsFiles},
    failure::Failure,
    output::Output,
    via::Via,
};

/// What all commands share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) via: Via,
    pub(crate) output: Output,
    pub(crate) secrets: Secrets,
    pub(crate) timeout: Duration,
    pub(crate) tls: TlsFiles,
    pub(crate) bus: BusArgs,
}

impl Context {
    pub(crate) fn new(common: Common, secrets: Secrets, output: Output) -> Result<Self, Failure> {
        let via = Via::parse(&common.via, if common.via_is_flag { "--via" } else { "CLARION_VIA" })?;
        Ok(Self { via, output, secrets, timeout: common.timeout, tls: common.tls, bus: common.bus })
    }
}

/// What must never be a flag, since everybody can see those. An empty variable is as good as none.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    /// For publishing over HTTP.
    pub(crate) api_key: Option<String>,
    /// A user's token.
    pub(crate) token: Option<String>,
    /// What `token` signs with.
    pub(crate) jwt_secret: Option<String>,
    /// The bus's.
    pub(crate) bus_password: Option<String>,
}

impl Secrets {
    /// Reads the variables.
    pub(crate) fn from_environment() -> Result<Self, Failure> {
        let read = |name: &str| match env::var(name) {
            Ok(value) => Ok(without_newline(&value)),
            Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => Err(Failure::usage(format!("{name} is no UTF-8"))),
        };
        Ok(Self {
            api_key: read("CLARION_API_KEY")?,
            token: read("CLARION_TOKEN")?,
            jwt_secret: read("CLARION_JWT_SECRET")?,
            bus_password: read("CLARION_BUS_PASSWORD")?,
        })
    }
}

/// Files end with a newline that nobody means, and so do the variables that are made of them; the broker passes it over too.
fn without_newline(value: &str) -> Option<String> {
    let value = value.trim_end_matches(['\r', '\n']);
    (!value.is_empty()).then(|| value.to_owned())
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_at_the_end_is_no_part_of_a_secret() {
        assert_eq!(without_newline("a b \r\n").as_deref(), Some("a b "));
        assert_eq!(without_newline("\n"), None);
    }
}
