//! A batch script for Slurm's `sbatch`.

use std::fmt::Write;

use super::{Submission, shell_line, shell_word};

/// Slurm may signal up to a minute from when it was told to (sbatch, `--signal`).
const LATENESS_S: u64 = 60;

impl Submission {
    /// The batch script (`sbatch FILE`).
    ///
    /// Before the time limit, and when it is preempted, the job saves, leaves and queues up again; a host that fails
    /// requeues it too.
    pub fn slurm(&self) -> String {
        let (tasks, cores) = match self.starts_ranks() {
            true => (self.ranks_per_host, self.cores_per_rank),
            false => (1, self.cores_per_host()),
        };
        let mut script = "#!/usr/bin/env bash\n".to_owned();
        let mut option = |name: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(script, "#SBATCH --{name}={value}");
        };
        option("job-name", &self.name.replace(char::is_whitespace, "-"));
        option("nodes", &self.hosts.to_string());
        option("ntasks-per-node", &tasks.to_string());
        option("cpus-per-task", &cores.to_string());
        if let Some(memory) = self.memory_mib {
            option("mem", &format!("{memory}M"));
        }
        if let Some(minutes) = self.minutes {
            option("time", &minutes.to_string());
        }
        option("output", "%x-%j.log");
        option("open-mode", "append");
        // To the job steps alone, not to this script.
        option("signal", &format!("TERM@{}", self.notice_s() + LATENESS_S));
        script.push_str("#SBATCH --requeue\nset -uo pipefail\n\n");
        match (self.hosts, self.mpi) {
            (1, _) => {
                let command = shell_line(&self.host_command);
                // Slurm does not hand --cpus-per-task down to steps by itself any more.
                let _ = write!(
                    script,
                    "srun --cpus-per-task=\"$SLURM_CPUS_PER_TASK\" {command}\nstatus=$?\n"
                );
            }
            (_, false) => self.launchers(&mut script),
            (_, true) => self.ranks_over_mpi(&mut script),
        }
        script.push_str(
            "\n# The ranks were told to stop and have saved: go on when there is time again.\n\
             if [ \"$status\" -eq 143 ]; then\n    scontrol requeue \"$SLURM_JOB_ID\"\nfi\n\
             exit \"$status\"\n",
        );
        script
    }

    fn launchers(&self, script: &mut String) {
        let launcher = self.launcher_line("\"$SLURM_NODEID\"", "\"$1\"");
        let _ = write!(
            script,
            "# Each task is a launcher of {ranks} ranks; they meet at the first host. One that is lost ends all.\n\
             first=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1)\n\
             srun --kill-on-bad-exit=1 --cpus-per-task=\"$SLURM_CPUS_PER_TASK\" \\\n    \
                 sh -c {script} sh \"$first\"\n\
             status=$?\n",
            ranks = self.ranks_per_host,
            script = shell_word(&format!("exec {launcher}")),
        );
    }

    fn ranks_over_mpi(&self, script: &mut String) {
        let command = shell_line(&self.rank_command);
        let _ = write!(
            script,
            "# Each task is a rank. After a failure all start again from the last checkpoint;\n\
             # 2 is a wrong configuration, 143 a request to stop.\n\
             restarts=0\n\
             while true; do\n    \
                 srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task=\"$SLURM_CPUS_PER_TASK\" \\\n        \
                     {command}\n    \
                 status=$?\n    \
                 case \"$status\" in 0 | 2 | 143) break ;; esac\n    \
                 if [ \"$restarts\" -ge {max} ]; then break; fi\n    \
                 restarts=$((restarts + 1))\n    \
                 echo \"restart $restarts of {max}: the ranks ended with $status\" >&2\n\
             done\n",
            max = self.max_restarts,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::super::tests::{one_host, two_hosts, two_hosts_over_mpi};
    use super::*;

    /// Runs a script with an `srun` that ends with these codes, one after the other, then with 0. Returns the script's
    /// code, and the command lines of `srun` and `scontrol`.
    fn run(submission: &Submission, codes: &[i32]) -> (i32, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(
                &path,
                format!("#!/bin/sh\necho \"{name} $*\" >> calls\n{text}\n"),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let codes: Vec<String> = codes.iter().map(i32::to_string).collect();
        fs::write(folder.path().join("codes"), codes.join("\n") + "\n").unwrap();
        program(
            "srun",
            "code=$(head -n1 codes); sed -i 1d codes; exit ${code:-0}",
        );
        program("scontrol", "echo node-a; echo node-b");
        let path = format!(
            "{}:{}",
            folder.path().display(),
            std::env::var("PATH").unwrap()
        );
        let status = Command::new("bash")
            .args(["-c", &submission.slurm()])
            .current_dir(folder.path())
            .env("PATH", path)
            .envs([("SLURM_CPUS_PER_TASK", "4"), ("SLURM_JOB_ID", "7")])
            .env("SLURM_JOB_NODELIST", "node-[a-b]")
            .status();
        let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
        (
            status.unwrap().code().unwrap(),
            calls.lines().map(str::to_owned).collect(),
        )
    }

    #[test]
    fn one_host_runs_the_launcher_on_all_its_cores() {
        let script = one_host().slurm();
        for line in [
            "#SBATCH --job-name=KuaiRand-DCN_v2!",
            "#SBATCH --nodes=1",
            "#SBATCH --ntasks-per-node=1",
            "#SBATCH --cpus-per-task=8",
            "#SBATCH --mem=32768M",
            "#SBATCH --time=90",
        ] {
            assert!(
                script.lines().any(|found| found == line),
                "{line} in {script}"
            );
        }
        let (code, calls) = run(&one_host(), &[]);
        let srun = "srun --cpus-per-task=4 streamrec launch --nproc 2 run.toml --resume";
        assert_eq!((code, calls), (0, vec![srun.to_owned()]));
    }

    #[test]
    fn ranks_on_several_hosts_start_again_after_a_failure_and_no_more_often_than_allowed() {
        let (code, calls) = run(&two_hosts_over_mpi(), &[1, 137]);
        assert_eq!((code, calls.len()), (0, 3));
        assert_eq!(
            calls[0],
            "srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task=4 \
             streamrec train run.toml --set name='a' --resume"
        );
        let (code, calls) = run(&two_hosts_over_mpi(), &[1, 1, 1, 5, 1]);
        assert_eq!((code, calls.len()), (5, 4));
        let (code, calls) = run(&two_hosts_over_mpi(), &[2]);
        assert_eq!((code, calls.len()), (2, 1));
    }

    #[test]
    fn several_hosts_run_a_launcher_each_that_meet_at_the_first() {
        let script = two_hosts().slurm();
        for line in [
            "#SBATCH --nodes=2",
            "#SBATCH --ntasks-per-node=1",
            "#SBATCH --cpus-per-task=8",
        ] {
            assert!(
                script.lines().any(|found| found == line),
                "{line} in {script}"
            );
        }
        let (code, calls) = run(&two_hosts(), &[]);
        assert_eq!((code, calls.len()), (0, 2));
        assert_eq!(
            calls[1],
            "srun --kill-on-bad-exit=1 --cpus-per-task=4 sh -c exec streamrec launch --nproc 2 run.toml --resume \
             --nnodes 2 --node-rank \"$SLURM_NODEID\" --rdzv-endpoint \"$1\":29400 sh node-a"
        );
        // The launchers have started the ranks again already.
        let (code, calls) = run(&two_hosts(), &[1, 1]);
        assert_eq!((code, calls.len()), (1, 2));
    }

    #[test]
    fn a_job_that_was_told_to_stop_queues_up_again() {
        for submission in [one_host(), two_hosts(), two_hosts_over_mpi()] {
            let (code, calls) = run(&submission, &[143]);
            assert_eq!(code, 143);
            assert_eq!(calls.last().unwrap(), "scontrol requeue 7");
        }
    }
}
