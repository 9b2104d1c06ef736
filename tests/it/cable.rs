//! Two hosts that are network namespaces of this one, with a cable between them that can be cut.

use std::process::Command;

/// Two network namespaces with a cable between them; gone when it drops.
pub struct Cable {
    names: [String; 2],
}

impl Cable {
    /// The address of the first.
    pub const FIRST: &str = "10.77.31.1";

    /// `None` where this process may not make any.
    pub fn lay() -> Option<Self> {
        let names = ["a", "b"].map(|side| format!("streamrec-{}-{side}", std::process::id()));
        let cable = Self { names };
        let [a, b] = &cable.names;
        let first = Self::FIRST;
        let commands = [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("-n {a} link add cable type veth peer name cable netns {b}"),
            format!("-n {a} address add {first}/24 dev cable"),
            format!("-n {b} address add 10.77.31.2/24 dev cable"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
            format!("-n {a} link set cable up"),
            format!("-n {b} link set cable up"),
        ];
        let cable = commands.iter().all(|command| ip(command)).then_some(cable);
        if cable.is_none() {
            println!("skipped: this process may not make network namespaces, or has no `ip`");
        }
        cable
    }

    /// The program, inside of one of them.
    pub fn inside(&self, node: usize) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.names[node]])
            .arg(env!("CARGO_BIN_EXE_streamrec"));
        command
    }

    /// What the system knows of the connections of both: what is on its way, and when it gives up.
    pub fn sockets(&self) -> String {
        let of = |name: &String| {
            let ss = Command::new("ip")
                .args(["netns", "exec", name, "ss", "-tino"])
                .output();
            let ss = ss.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            format!("{name}: {}", ss.unwrap_or_else(|error| error.to_string()))
        };
        self.names.iter().map(of).collect()
    }

    /// `up` or `down`.
    pub fn set(&self, state: &str) {
        assert!(ip(&format!("-n {} link set cable {state}", self.names[1])));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}
