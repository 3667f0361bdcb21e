//! `completions` and `man`: made from the same description as the command line itself.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use serde_json::json;

use crate::{args::Cli, failure::Failure, output::Output};

/// Writes completions for a shell.
pub(crate) fn completions(output: Output, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "clarion", &mut script);
    write(output, &script)
}

/// Writes the manual page of the whole, or of one command.
pub(crate) fn man(output: Output, command: Option<&str>) -> Result<(), Failure> {
    let mut whole = Cli::command();
    // Commands know all that they inherit only once the whole is built.
    whole.build();
    let page = match command {
        None => whole,
        Some(name) => {
            let names: Vec<_> = whole.get_subcommands().map(|command| command.get_name().to_owned()).collect();
            let found = whole.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| {
                Failure::usage(format!("there is no command `{name}`")).remedy(format!("one of {}", names.join(", ")))
            })?;
            found.display_name(format!("clarion-{name}")).version(env!("CARGO_PKG_VERSION"))
        }
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    write(output, &text)
}

fn write(output: Output, text: &[u8]) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(text);
    output.result(text.trim_end(), &json!({ "text": text }))
}
