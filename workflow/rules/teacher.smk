# One job makes one shard of a teacher's samples; digits, as most models, has one teacher.
for cell in asked.teachers(CONFIG):
    for path, (first, last) in asked.teacher_files(CONFIG, cell).items():

        rule:
            name:
                f"teacher_nfe{cell.nfe}_{first}"
            input:
                NETWORK,
            output:
                f"{FOLDER}/{path}",
            log:
                f"logs/{CONFIG['benchmark']}/teacher/nfe{cell.nfe}-{first}.log",
            benchmark:
                f"logs/{CONFIG['benchmark']}/teacher/nfe{cell.nfe}-{first}.tsv"
            priority: 90
            conda:
                "../../environment.yml"
            resources:
                gpu=GPU,
            params:
                config=CONFIG_FILE,
                nfe=cell.nfe,
                first=first,
                depends_on=depends_on("teacher"),
            shell:
                "s4s teacher {params.config} --nfe {params.nfe} --first {params.first} > {log} 2>&1"
