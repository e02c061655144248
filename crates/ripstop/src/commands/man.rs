//! `ripstop man`: the manual page, made of the same texts as the help.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man as Page;

use crate::cli::{self, EXAMPLES, EXIT_CODES, FILES};
use crate::failure::Failure;
use crate::print::Out;

/// Print the manual page: `ripstop man | man -l -`
#[derive(Debug, Args)]
pub struct Man {
    /// Write ripstop.1 and a page for each command into this folder instead, which is made where it is missing
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl Man {
    /// Prints the page, or writes the pages.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        let page = whole().map_err(|error| Failure::system("cannot make the manual page", &error))?;
        match &self.dir {
            None => out.text(&page),
            Some(dir) => {
                let paths = write(dir, &page).map_err(|error| {
                    Failure::system(&format!("cannot write manual pages into {}", dir.display()), &error)
                })?;
                paths.iter().try_for_each(|path| out.line(&path.display().to_string()))
            }
        }
    }
}

fn write(dir: &Path, page: &str) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let top = dir.join("ripstop.1");
    fs::write(&top, page)?;
    let mut paths = vec![top];
    for command in built().get_subcommands().filter(|command| shown(command)) {
        pages_below(command, dir, &mut paths)?;
    }
    Ok(paths)
}

fn pages_below(command: &Command, dir: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    paths.push(page(command.clone()).generate_to(dir)?);
    command.get_subcommands().filter(|command| shown(command)).try_for_each(|sub| pages_below(sub, dir, paths))
}

/// The page that has everything: `man ripstop` answers without a second page.
///
/// # Errors
/// Where a page cannot be rendered.
pub fn whole() -> io::Result<String> {
    let command = built();
    let top = page(command.clone());
    let mut text = Vec::new();
    top.render_title(&mut text)?;
    top.render_name_section(&mut text)?;
    top.render_synopsis_section(&mut text)?;
    top.render_description_section(&mut text)?;
    top.render_options_section(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    text.push_str(".SH COMMANDS\n");
    for sub in command.get_subcommands().filter(|command| shown(command)) {
        command_section(sub, &mut text)?;
    }
    list(&mut text, "EXIT STATUS", EXIT_CODES);
    list(&mut text, "FILES", FILES);
    text.push_str(".SH EXAMPLES\n");
    for (purpose, line) in EXAMPLES {
        let gap = if purpose.is_empty() { String::new() } else { format!(".PP\n{}:\n", escaped(purpose)) };
        text.push_str(&format!("{gap}.RS 4\n.nf\n\\fB{}\\fR\n.fi\n.RE\n", escaped(line)));
    }
    text.push_str(
        ".SH ENVIRONMENT\n.TP\n\\fBNO_COLOR\\fR\nWhere it is set and not empty, nothing is printed in colours.\n",
    );
    Ok(text)
}

/// A command, and those below it, as a subsection each.
fn command_section(command: &Command, text: &mut String) -> io::Result<()> {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    text.push_str(&format!(".SS \"{}\"\n", escaped(name)));
    let page = page(without_common(command.clone()));
    type Render = fn(&Page, &mut dyn io::Write) -> io::Result<()>;
    let parts: [Render; 3] =
        [Page::render_synopsis_section, Page::render_description_section, Page::render_options_section];
    for render in parts {
        let mut part = Vec::new();
        render(&page, &mut part)?;
        // The same text, without the heading of a page's section.
        let part = String::from_utf8_lossy(&part).into_owned();
        let lines = part.lines().filter(|line| !line.starts_with(".SH ") && !is_preamble(line));
        text.push_str(".PP\n");
        lines.for_each(|line| text.push_str(&format!("{line}\n")));
    }
    command.get_subcommands().filter(|command| shown(command)).try_for_each(|sub| command_section(sub, text))
}

/// A command without the options that every command has, which the page tells once.
fn without_common(command: Command) -> Command {
    let common = |command: &Command, name: &str| command.get_arguments().any(|arg| arg.get_id() == name);
    ["help", "lab", "node", "socket"].into_iter().fold(command, |command, name| {
        let picks = ["help", "socket"].contains(&name) || common(&command, "socket");
        if picks && common(&command, name) { command.mut_arg(name, |arg| arg.hide(true)) } else { command }
    })
}

/// What each rendering begins with, so that apostrophes stay what they are.
fn is_preamble(line: &str) -> bool {
    line.starts_with(".ie ") || line.starts_with(".el ")
}

fn list(text: &mut String, title: &str, items: &[(&str, &str)]) {
    text.push_str(&format!(".SH \"{title}\"\n"));
    for (item, meaning) in items {
        text.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", escaped(item), escaped(meaning)));
    }
}

/// Text as roff has it (groff_char(7)): backslashes and hyphens as they are typed, no control line.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn page(command: Command) -> Page {
    // No date: the same sources give the same page.
    Page::new(command).date("").manual("Ripstop")
}

fn built() -> Command {
    let mut command = cli::command();
    command.build();
    command
}

fn shown(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}
