//! etcd's settings as a process carries them: flags, then `ETCD_*` variables; or a configuration file, which replaces both.

use std::collections::BTreeMap;

/// Settings kept of one process; etcd 3.7 has 120 flags.
const SETTINGS_MAX: usize = 256;

/// Longer values are not ours to read (an initial cluster list may be long, a name never is).
const VALUE_MAX: usize = 1_024;

/// Settings by flag name without dashes (`listen-client-urls`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    set: BTreeMap<String, String>,
}

impl Flags {
    /// From arguments without the program: `--flag value`, `--flag=value`, `-flag`; a flag without a value is `true`.
    pub(crate) fn from_arguments(arguments: &[String]) -> Flags {
        let mut flags = Flags::default();
        let mut words = arguments.iter().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                continue;
            };
            match flag.split_once('=') {
                Some((name, value)) => flags.put(name, value),
                None => {
                    let value = words.next_if(|next| !next.starts_with('-'));
                    flags.put(flag, value.map_or("true", |value| value.as_str()));
                }
            }
        }
        flags
    }

    /// Adds `ETCD_*` variables; a flag wins over its variable.
    pub(crate) fn add_environment<'a>(&mut self, variables: impl Iterator<Item = &'a str>) {
        for variable in variables {
            let Some((name, value)) = variable.split_once('=') else { continue };
            let Some(name) = name.strip_prefix("ETCD_") else { continue };
            let name = name.to_ascii_lowercase().replace('_', "-");
            if !value.is_empty() && !self.set.contains_key(&name) {
                self.put(&name, value);
            }
        }
    }

    /// From etcd's configuration file: `name: value` lines, and those under `client-transport-security`. Lists are read in
    /// the `[a, b]` form only; what is written otherwise is not found, never misread.
    pub(crate) fn from_file(text: &str) -> Flags {
        let mut flags = Flags::default();
        let mut section = String::new();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let indented = key.starts_with([' ', '\t']);
            let key = key.trim();
            if key.starts_with('#') || key.starts_with('-') {
                continue;
            }
            let value = value.split(" #").next().unwrap_or("").trim();
            let value = value.trim_matches(['[', ']']).replace(['"', '\'', ' '], "");
            if !indented {
                section.clear();
                if value.is_empty() {
                    section.push_str(key);
                }
            }
            let ours = !indented || section == "client-transport-security";
            if ours && !value.is_empty() {
                flags.put(key, &value);
            }
        }
        flags
    }

    fn put(&mut self, name: &str, value: &str) {
        if self.set.len() < SETTINGS_MAX && name.len() <= VALUE_MAX && value.len() <= VALUE_MAX {
            self.set.insert(name.to_owned(), value.to_owned());
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.set.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A boolean flag that is set.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| matches!(value, "true" | "1" | "t" | "T" | "TRUE" | "True"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn flags_come_in_four_forms() {
        let flags = Flags::from_arguments(&words(
            "--name m1 --data-dir=/d -listen-client-urls http://a:1 --enable-pprof",
        ));
        assert_eq!(flags.get("name"), Some("m1"));
        assert_eq!(flags.get("data-dir"), Some("/d"));
        assert_eq!(flags.get("listen-client-urls"), Some("http://a:1"));
        assert!(flags.is_on("enable-pprof"));
        let flags =
            Flags::from_arguments(&words("--enable-pprof --name m1 --client-cert-auth=false stray --name="));
        assert!(flags.is_on("enable-pprof") && !flags.is_on("client-cert-auth"));
        assert_eq!(flags.get("name"), None);
    }

    #[test]
    fn a_flag_wins_over_its_variable() {
        let mut flags = Flags::from_arguments(&words("--name m1"));
        flags.add_environment(
            ["ETCD_NAME=m2", "ETCD_DATA_DIR=/d", "HOME=/root", "ETCD_X", "ETCD_="].into_iter(),
        );
        assert_eq!((flags.get("name"), flags.get("data-dir")), (Some("m1"), Some("/d")));
    }

    #[test]
    fn a_configuration_file_is_read_as_far_as_we_need_it() {
        let text = "name: 'm3' # ours\ndata-dir: /d\nlisten-client-urls: https://127.0.0.1:2379,https://10.0.0.1:2379\n\
            client-transport-security:\n  trusted-ca-file: \"/ca\"\n  client-cert-auth: true\npeer-transport-security:\n  \
            trusted-ca-file: /peer\nlog-outputs: [stderr]\n- odd\n: : :\n";
        let flags = Flags::from_file(text);
        assert_eq!(flags.get("name"), Some("m3"));
        assert_eq!(flags.get("listen-client-urls"), Some("https://127.0.0.1:2379,https://10.0.0.1:2379"));
        assert_eq!(flags.get("trusted-ca-file"), Some("/ca"));
        assert!(flags.is_on("client-cert-auth"));
        assert_eq!(flags.get("log-outputs"), Some("stderr"));
    }

    #[test]
    fn endless_settings_are_bounded() {
        let many: Vec<String> = (0..10_000).map(|n| format!("--flag-{n}=x")).collect();
        assert_eq!(Flags::from_arguments(&many).set.len(), SETTINGS_MAX);
    }
}
