"use strict";
(function () {
  var root = document.documentElement;
  root.classList.add("with-script");
  var store = { get: function () { try { return localStorage.getItem("voltool-theme"); } catch (e) { return null; } },
                set: function (v) { try { localStorage.setItem("voltool-theme", v); } catch (e) { /* a file: page has none */ } } };
  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  var asked = new URLSearchParams(location.search).get("theme") || store.get();
  if (asked === "dark" || asked === "light") { root.dataset.theme = asked; }
  document.getElementById("theme").addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    store.set(root.dataset.theme);
  });
  function openTarget() {
    var target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  }
  addEventListener("hashchange", openTarget);
  document.addEventListener("click", function (event) {
    var link = event.target.closest && event.target.closest("a[href^='#v']");
    if (link) { var t = document.getElementById(link.getAttribute("href").slice(1)); if (t) { t.open = true; } }
  });
  openTarget();
  var filter = document.getElementById("filter");
  if (filter) {
    filter.addEventListener("input", function () {
      var word = filter.value.toLowerCase();
      document.querySelectorAll("[data-name]").forEach(function (each) {
        each.hidden = each.dataset.name.toLowerCase().indexOf(word) < 0;
      });
    });
  }
  var table = document.getElementById("volumes");
  if (table) {
    table.querySelectorAll("th[data-sort]").forEach(function (head) {
      head.style.cursor = "pointer";
      head.addEventListener("click", function () {
        var index = head.cellIndex, down = head.dataset.down !== "1";
        head.dataset.down = down ? "1" : "0";
        var rows = Array.from(table.tBodies[0].rows);
        rows.sort(function (a, b) {
          var x = a.cells[index].dataset.value, y = b.cells[index].dataset.value;
          var order = head.dataset.sort === "number" ? Number(x) - Number(y) : x.localeCompare(y);
          return down ? -order : order;
        });
        rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
      });
    });
  }
}());
