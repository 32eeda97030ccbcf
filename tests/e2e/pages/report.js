  const seen = place => inside(place.getBoundingClientRect(), {left: 0, top: 0, right: innerWidth, bottom: innerHeight});
  const first = {
    shortlist: all("table.short tr[data-row]").filter(seen).length,
    knee: seen(document.querySelector("table.short tr.picked")), name: document.getElementById("name").textContent,
    command: document.getElementById("command").textContent, shown: all("tbody.rows tr").length,
  };
  const header = name => all("table.members th").find(cell => cell.textContent === name);
  const cells = name => all("tbody.rows tr").map(row => Number(row.children[header(name).cellIndex].textContent));
  header("latency_ms").querySelector("button").click();
  const up = cells("latency_ms"), sorts = [header("latency_ms").getAttribute("aria-sort")];
  header("latency_ms").querySelector("button").click();
  const down = cells("latency_ms");
  sorts.push(header("latency_ms").getAttribute("aria-sort"), header("accuracy").getAttribute("aria-sort"));
  const box = document.getElementById("limit0");
  const given = box.value;
  box.value = "20";
  box.dispatchEvent(new Event("input"));
  const limited = {name: document.getElementById("name").textContent, answer: document.getElementById("answer").textContent,
    row: document.querySelector("table.members tr.picked td").textContent, command: document.getElementById("command").textContent,
    ring: [document.getElementById("main").data.at(-1).x[0], document.getElementById("main").data.at(-1).y[0]],
    line: document.getElementById("main").layout.shapes[0].x0};
  const filter = document.getElementById("filter");
  filter.value = "ft75";
  filter.dispatchEvent(new Event("input"));
  const kept = all("tbody.rows tr").map(row => row.children[0].textContent);
  const hover = document.getElementById("main").data[1].text;
  const known = document.getElementById("main").data.find(trace => trace.marker?.symbol === "diamond");
  return {first, up, down, sorts, limited, kept, given, hover: hover.slice(0, 3), known: known?.text ?? [],
    points: all(".plot").map(place => place.querySelectorAll(".point, .js-line").length),
    titles: [document.getElementById("main").layout.xaxis.title.text, document.getElementById("main").layout.yaxis.title.text]};
