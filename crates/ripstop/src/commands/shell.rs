//! `ripstop completion`: scripts that make a shell complete this command.

use clap::{Args, ValueEnum};
use clap_complete::Shell as Generator;

use crate::cli;
use crate::failure::Failure;
use crate::print::Out;

/// Print a script that makes a shell complete this command
///
/// bash: ripstop completion bash > /etc/bash_completion.d/ripstop
/// zsh:  ripstop completion zsh > "${fpath[1]}/_ripstop"
/// fish: ripstop completion fish > ~/.config/fish/completions/ripstop.fish
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
// A shell's array, not a link.
#[allow(rustdoc::broken_intra_doc_links)]
pub struct Completion {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// Shells for which there is a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash, from 4.4
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

impl Completion {
    /// Prints the script.
    ///
    /// # Errors
    /// Where it cannot be printed.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        let generator = match self.shell {
            Shell::Bash => Generator::Bash,
            Shell::Zsh => Generator::Zsh,
            Shell::Fish => Generator::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(generator, &mut cli::command(), "ripstop", &mut script);
        out.text(&String::from_utf8_lossy(&script))
    }
}
